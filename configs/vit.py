"""A small vision transformer on CIFAR-10, a demonstration for one CPU core.

python main.py --config=configs/vit.py:st3-90 --config.data_dir=DIR

`vit_micro`, 96 wide and 4 blocks deep, on patches of 8 x 8 pixels: 16 tokens.
AdamW with decoupled decay, warm-up and cosine, crops and flips, ten epochs.
Settings of our own. Test accuracy, one seed, JPEG re-encodings of the images,
on one core of an AMD EPYC that other work shared:

  dense         60.06%, 335 s
  str           s from -8, which by decay alone comes to -2: 59.03% with 63.06%
                zeros, 552 s
  target-90     STR with a target of 90% zeros: 57.27%, 510 s
  st3-90        90% zeros: 57.89%, 617 s

The full length, for a GPU, not run here:

python main.py --config=configs/vit.py:st3-90 --config.total_epochs=160
"""

from configs import common, recipes

# Decoupled decay shrinks s by the factor exp(-decay * sum of learning rates).
_STR = {
  'method.name': 'str',
  'method.init_value': -8.0,
  'optimizer.threshold_decay': 0.8,
}
VARIANTS = {
  'dense': {'method.name': 'dense'},
  'str': _STR,
  'target-90': {'method.name': 'str', 'method.target': 0.9},
  'st3-90': recipes.CIFAR_PRUNING
  | {'method.name': 'st3', 'method.sparsity': 0.9},
}


def get_config(variant: str | None = None) -> common.ConfigDict:
  config = recipes.cifar('cifar10', 'vit_micro')
  config.name = 'vit'
  config.model.patch = 8
  config.optimizer.name = 'adamw'
  config.optimizer.coupled = False
  config.optimizer.weight_decay = 0.05
  config.schedule.learning_rate = 1e-3
  config.schedule.warmup_epochs = 0.5
  return common.with_variant(config, variant, VARIANTS, default='str')
