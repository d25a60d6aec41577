"""The two papers' recipes on ImageNet, shared by the configs of its networks.

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
  zeros frozen, while the authors' README says 100 epochs: we run the 100.
* It computes in half precision with loss scaling; we compute in bfloat16,
  which needs none.

BatchNorm keeps 0.99 of its running averages a step.

Both train on all images: none are held out, nothing is chosen by looking at
the test images, and best_top1 in summary.json is null.
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
