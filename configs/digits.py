"""A small ConvNet on scikit-learn's 1,797 real digits: no download.

python main.py --config=configs/digits.py:str

1,197 images of 8 x 8 pixels to train on, 240 for validation, 360 for test.

Variants, 1,200 steps each:

  dense  56,224 weights, all in use
  str    STR: a threshold a layer, learned from s = -10 on by weight decay
  st3    ST-3: 91% zeros, reached between steps 100 and 700
"""

from configs import common

VARIANTS = {
  'dense': {'method.name': 'dense'},
  'str': {
    'method.name': 'str',
    'method.init_value': -10.0,
    'optimizer.weight_decay': 8e-3,
  },
  'st3': {
    'method.name': 'st3',
    'method.sparsity': 0.91,
    'method.start_steps': 100,
    'method.end_steps': 700,
  },
}


def get_config(variant: str | None = None) -> common.ConfigDict:
  config = common.get_config()
  config.name = 'digits'
  config.dataset = 'digits'
  config.batch_size = 64
  config.total_steps = 1200
  config.model.name = 'convnet'
  config.optimizer.weight_decay = 5e-4
  config.schedule.learning_rate = 0.1
  config.schedule.warmup_steps = 50
  config.eval_every_steps = 200
  return common.with_variant(config, variant, VARIANTS, default='str')
