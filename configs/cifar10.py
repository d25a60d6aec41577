"""ResNet-20 on CIFAR-10."""

from configs import common

_ST3 = {'method.start_epochs': 1.0, 'method.end_epochs': 6.0}
_STR = {'method.name': 'str', 'method.init_value': -20.0}

VARIANTS = {
  'dense': {'method.name': 'dense'},
  'str': _STR | {'optimizer.threshold_decay': 5e-3},
  'st3-90': _ST3 | {'method.name': 'st3', 'method.sparsity': 0.9},
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
