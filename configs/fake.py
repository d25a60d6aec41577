"""ResNet50 on generated images of 224 x 224 pixels: how fast a machine trains.

python main.py --config=configs/fake.py:str --config.batch_size=256

Nothing is downloaded and nothing can be learned: look at images/s, which is
examples_per_second in summary.json. 30 steps, then 1,000 images of evaluation.

Variants: dense, str, st3; the methods' settings are those of ResNet50 at 90%,
with ST-3's pruning from step 5 to 20. float32; for the matrix units of a GPU
or TPU add --config.model.dtype=bfloat16.
"""

from configs import common

VARIANTS = {
  'dense': {'method.name': 'dense'},
  'str': {
    'method.name': 'str',
    'method.init_value': -3200.0,
    'optimizer.norm_decay': 2.251757813e-5,
  },
  'st3': {
    'method.name': 'st3',
    'method.sparsity': 0.9,
    'method.start_steps': 5,
    'method.end_steps': 20,
  },
}


def get_config(variant: str | None = None) -> common.ConfigDict:
  config = common.get_config()
  config.name = 'fake'
  config.dataset = 'fake'
  config.image_size = 224
  config.batch_size = 32
  config.eval_batch_size = 32
  config.total_steps = 30
  config.model.name = 'resnet50'
  config.optimizer.momentum = 0.875
  config.optimizer.weight_decay = 2.251757813e-5
  config.schedule.learning_rate = 0.01
  config.log_every_steps = 10
  return common.with_variant(config, variant, VARIANTS, default='dense')
