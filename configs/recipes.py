"""The two papers' recipes, shared by the configs of a data set's networks.

ImageNet, both papers. All images are trained on: none are held out, nothing
is chosen by looking at the test images, and best_top1 in summary.json is null.

STR: Kusupati et al., ICML 2020, appendix, and the authors' configs/largescale.
SGD with momentum 0.875, batch 256, learning rate 0.256 with 5 epochs of linear
warm-up, then cosine, changed once an epoch; 100 epochs, label smoothing 0.1.
Weights, thresholds and norms decay alike. float32.

ST-3: Vanderschueren and De Vleeschouwer, WACV 2023, the authors' released
configs/imagenet.toml. Batch 512, learning rate 0.2 with the same schedule,
momentum 0.875, gradients clipped to norm 3, label smoothing 0.1; only the
weights of convolutions and classifier decay. Pruning from epoch 5 to 50.
Two things differ from that file:

* It trains 100 epochs, rewinds the learning rate and trains 100 more with the
  zeros frozen, while the authors' README says 100 epochs: we run the 100, and
  the whole in the variants named -rewind. What these leave out are 10 epochs
  between the two, with the zeros frozen and a cosine that has turned and rises
  again to 0.0044, and the return from there to the best checkpoint so far.
* It computes in half precision with loss scaling; we compute in bfloat16,
  which needs none.

BatchNorm keeps 0.99 of its running averages a step, as that file's momentum
of 0.99 suggests; PyTorch, which it is handed to, takes it for the share of the
new batch and would keep 0.01.

CIFAR, ST-3: the authors' released configs/cifar10.toml and cifar100.toml. 160
epochs, SGD with 0.1 and momentum 0.9, a tenth of it from epochs 80 and 120,
batch 128, decay 1e-4 on the weights of convolutions and classifier only,
gradients clipped to norm 3, pruning from epoch 5 to 80, then 10 epochs of
fine-tuning with the zeros frozen. BatchNorm as on ImageNet. 5,000 of the
50,000 training images are held out for validation.

CIFAR, Feather: Glentis Georgoulakis et al., BMVC 2023. 160 epochs, SGD with
0.1 and momentum 0.9 on a cosine, batch 128, decay 5e-4 on weights only,
pruning over the first half.
"""

from collections.abc import Mapping
from typing import Any

from configs import common

Fields = Mapping[str, Any]

STR: Fields = {
  'batch_size': 256,
  'schedule.learning_rate': 0.256,
  'optimizer.momentum': 0.875,
}
ST3: Fields = {
  'batch_size': 512,
  'model.dtype': 'bfloat16',
  'model.norm_momentum': 0.99,
  'schedule.learning_rate': 0.2,
  'optimizer.momentum': 0.875,
  'optimizer.weight_decay': 5e-5,
  'optimizer.clip_norm': 3.0,
}

# Ten epochs on CIFAR: neither paper's.
CIFAR_STR: Fields = {
  'method.name': 'str',
  'method.init_value': -10.0,
  'optimizer.weight_decay': 1.7e-3,
}
CIFAR_PRUNING: Fields = {
  'method.start_epochs': 1.0,
  'method.end_epochs': 6.0,
}
CIFAR_PAPER: Fields = {
  'total_epochs': 160.0,
  'optimizer.weight_decay': 1e-4,
  'optimizer.clip_norm': 3.0,
  'schedule.name': 'multistep',
  'schedule.boundaries_epochs': (80.0, 120.0),
  'schedule.factor': 0.1,
  'schedule.warmup_epochs': 0.0,
  'model.norm_momentum': 0.99,
}
_CIFAR_PAPER_PRUNING: Fields = {
  'method.start_epochs': 5.0,
  'method.end_epochs': 80.0,
  'method.finetune_epochs': 10.0,
}


def imagenet(name: str, model: str) -> common.ConfigDict:
  """What both recipes have in common.

  Args:
    name: of the config file.
    model: the network.

  Returns:
    The config.
  """
  config = common.get_config()
  config.name = name
  config.dataset = 'imagenet2012'
  config.augment = 'random_resized_crop'  # and a flip
  config.validation = 0
  config.total_epochs = 100.0
  config.label_smoothing = 0.1
  config.model.name = model
  config.model.init = 'fan_in'
  config.model.classifier_bias = False
  config.schedule.name = 'cosine'
  config.schedule.hold = 'epoch'
  config.schedule.warmup_epochs = 5.0
  config.log_every_steps = 100
  config.eval_every_epochs = 1.0
  return config


def str_dense(weight_decay: float) -> Fields:
  """STR's dense baseline: what decays are weights and norms."""
  return STR | {
    'method.name': 'dense',
    'optimizer.weight_decay': weight_decay,
    'optimizer.norm_decay': weight_decay,
  }


def str_sparse(weight_decay: float, init_value: float) -> Fields:
  """A row of STR's tables: weight decay, and s at the start."""
  return str_dense(weight_decay) | {
    'method.name': 'str',
    'method.init_value': init_value,
  }


def str_baseline(method: str, **fields: Any) -> Fields:
  """STR's baselines, 'gmp' or 'dnw': a sparsity or a budget by name.

  GMP prunes from epoch 20 to 80, once an epoch (the authors' resnet50-gmp).
  """
  course: Fields = {
    'method.hold': 'epoch',
    'method.start_epochs': 20.0,
    'method.end_epochs': 80.0,
  }
  return (
    str_dense(3.0517578125e-5)
    | (course if method == 'gmp' else {})
    | {'method.name': method}
    | {f'method.{name}': value for name, value in fields.items()}
  )


def st3_dense() -> Fields:
  """ST-3's dense baseline."""
  return ST3 | {'method.name': 'dense'}


def st3_sparse(method: str, sparsity: float) -> Fields:
  """A row of ST-3's table: 'st3' or 'st3_sigma', and the fraction of zeros."""
  return ST3 | {
    'method.name': method,
    'method.sparsity': sparsity,
    'method.start_epochs': 5.0,
    'method.end_epochs': 50.0,
  }


def st3_rewound(sparsity: float) -> Fields:
  """ST-3, then the whole schedule again with the zeros frozen."""
  return st3_sparse('st3', sparsity) | {'method.rewind_epochs': 0.0}


def cifar(name: str, model: str) -> common.ConfigDict:
  """Ten epochs, settings of our own: what CIFAR's configs have in common.

  Args:
    name: of the config file and of the data set.
    model: the network.

  Returns:
    The config.
  """
  config = common.get_config()
  config.name = name
  config.dataset = name
  config.validation = 5000
  config.batch_size = 128
  config.total_epochs = 10.0
  config.model.name = model
  config.optimizer.weight_decay = 5e-4
  config.schedule.learning_rate = 0.1
  config.schedule.warmup_epochs = 0.5
  config.log_every_steps = 44
  config.eval_every_epochs = 1.0
  return config


def cifar_st3() -> dict[str, Fields]:
  """ST-3's variants on CIFAR by name: ten epochs, and the paper's recipe."""
  variants = {'dense-paper': CIFAR_PAPER | {'method.name': 'dense'}}
  paper = CIFAR_PAPER | _CIFAR_PAPER_PRUNING
  for method in ('st3', 'st3_sigma'):
    for percent in (80, 90, 95, 98, 99):
      fields = {'method.name': method, 'method.sparsity': percent / 100}
      variants[f'{method}-{percent}'] = CIFAR_PRUNING | fields
      variants[f'{method}-{percent}-paper'] = paper | fields
  return variants


def cifar_feather() -> dict[str, Fields]:
  """Feather's recipe on CIFAR by name: 160 epochs, the first half prunes."""
  recipe: Fields = {
    'method.name': 'feather',
    'method.start_epochs': 0.0,
    'method.end_epochs': 80.0,
    'total_epochs': 160.0,
    'schedule.warmup_epochs': 0.0,
  }
  return {
    f'feather-{percent}-paper': recipe | {'method.sparsity': percent / 100}
    for percent in (90, 95, 98, 99)
  }
