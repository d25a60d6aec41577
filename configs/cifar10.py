"""ResNet-20 on CIFAR-10: ten epochs to look at, or the full recipe of ST-3.

python main.py --config=configs/cifar10.py:st3-90 --config.data_dir=DIR

`python -m str_jax prepare cifar10 --data_dir=DIR` gets the images. 5,000 of
the 50,000 training images are held out for validation.

Ten epochs, a demonstration (settings of our own, neither paper's), with the
test accuracy measured on JPEG re-encodings of the images, half an hour a run
on one busy core (benchmarks/results/cifar10.json):

  dense         82.41%
  str           s from -10, weights and thresholds decay by 1.7e-3:
                79.72% with 90.45% zeros
  st3           91% zeros: 80.64%
  st3-P, st3_sigma-P    P zeros in %: 80, 90, 95, 98 or 99

The recipe of ST-3 (WACV 2023, the authors' released configs/cifar10.toml):

  dense-paper
  st3-P-paper, st3_sigma-P-paper

160 epochs, SGD with 0.1 and momentum 0.9, a tenth of it from epochs 80 and
120, batch 128, decay 1e-4 on the weights of convolutions and classifier only,
gradients clipped to norm 3, pruning from epoch 5 to 80, then 10 epochs of
fine-tuning with the zeros frozen. BatchNorm keeps 0.99 of its averages a step
(see configs/recipes.py). Not run here at full length.
"""

from configs import common

SPARSITIES = {'80': 0.8, '90': 0.9, '95': 0.95, '98': 0.98, '99': 0.99}

_STR = {
  'method.name': 'str',
  'method.init_value': -10.0,
  'optimizer.weight_decay': 1.7e-3,
}
_ST3 = {'method.start_epochs': 1.0, 'method.end_epochs': 6.0}

_PAPER = {
  'total_epochs': 160.0,
  'optimizer.weight_decay': 1e-4,
  'optimizer.clip_norm': 3.0,
  'schedule.name': 'multistep',
  'schedule.boundaries_epochs': (80.0, 120.0),
  'schedule.factor': 0.1,
  'schedule.warmup_epochs': 0.0,
  'model.norm_momentum': 0.99,
}
_ST3_PAPER = _PAPER | {
  'method.start_epochs': 5.0,
  'method.end_epochs': 80.0,
  'method.finetune_epochs': 10.0,
}

_SPARSE = {
  f'{method}-{percent}': {'method.name': method, 'method.sparsity': sparsity}
  for method in ('st3', 'st3_sigma')
  for percent, sparsity in SPARSITIES.items()
}

VARIANTS = {
  'dense': {'method.name': 'dense'},
  'str': _STR,
  'st3': _ST3 | {'method.name': 'st3', 'method.sparsity': 0.91},
  **{name: _ST3 | fields for name, fields in _SPARSE.items()},
  'dense-paper': _PAPER | {'method.name': 'dense'},
  **{f'{name}-paper': _ST3_PAPER | f for name, f in _SPARSE.items()},
}


def get_config(variant: str | None = None) -> common.ConfigDict:
  config = common.get_config()
  config.name = 'cifar10'
  config.dataset = 'cifar10'
  config.validation = 5000
  config.batch_size = 128
  config.total_epochs = 10.0
  config.model.name = 'resnet20'
  config.optimizer.weight_decay = 5e-4
  config.schedule.learning_rate = 0.1
  config.schedule.warmup_epochs = 0.5
  config.log_every_steps = 44
  config.eval_every_epochs = 1.0
  return common.with_variant(config, variant, VARIANTS, default='str')
