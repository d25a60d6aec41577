"""A small ConvNet on scikit-learn's 1,797 real digits: no download.

python main.py --config=configs/digits.py:str

1,197 images of 8 x 8 pixels to train on, 240 for validation, 360 for test.

Variants, 1,200 steps each; test accuracy, zeros and time are means over three
seeds on two cores of an AMD EPYC (benchmarks/results/digits.json):

  dense  56,224 weights, all in use: 98.43%, 12 s
  str    STR, a threshold a layer, learned from s = -10 on by weight decay:
         98.70%, 93.71% zeros, 16 s
  st3    ST-3, 91% zeros, reached between steps 100 and 700: 98.98%, 21 s
  gmp    GMP, on the same course, 91% zeros in every layer: 96.30%, 19 s
  dnw    DNW, 91% zeros in every layer from the first step on: 98.52%, 10 s
  feather  Feather, on ST-3's course: 98.61%, 15 s
  str_group  STR on whole filters, half of the weights: docs/structured.md
  st3-2of4  ST-3's, 2 of every 4 inputs and no other zeros: docs/structured.md
  imp    iterative magnitude pruning, 6 runs of 400 steps, the first dense, then
         pruned in 5 equal rounds to 90% zeros with the learning rate rewound:
         98.33%, 29 s
"""

from configs import common

VARIANTS = {
  'dense': {'method.name': 'dense'},
  'str': {
    'method.name': 'str',
    'method.init_value': -10.0,
    'optimizer.weight_decay': 8e-3,
  },
  **{
    name: {
      'method.name': name,
      'method.sparsity': 0.91,
      'method.start_steps': 100,
      'method.end_steps': 700,
    }
    for name in ('st3', 'gmp', 'feather')
  },
  'dnw': {'method.name': 'dnw', 'method.sparsity': 0.91},
  'str_group': {'method.name': 'str_group', 'method.target': 0.5},
  'st3-2of4': {
    'method.name': 'st3',
    'method.sparsity': 0.0,
    'method.pattern': '2:4',
    'method.start_steps': 100,
    'method.end_steps': 700,
  },
  'imp': {
    'total_steps': 400,
    'imp.rounds': 5,
    'imp.sparsity': 0.9,
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
