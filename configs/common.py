"""The fields that every config has, and variants by argument.

Durations are given as ``*_steps`` or ``*_epochs``; set one of the two.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import config_dict

ConfigDict = config_dict.ConfigDict
placeholder = config_dict.placeholder


def get_config() -> ConfigDict:
  """The fields with their defaults; a placeholder is None until it is set.

  Returns:
    The config, locked: a name that it does not have cannot be set.
  """
  config = ConfigDict()
  config.name = ''  # of the config file, and of the variant in it
  config.variant = ''
  config.seed = 0

  config.dataset = 'digits'
  config.data_dir = placeholder(str)  # else TFDS_DATA_DIR, else TFDS's own
  config.image_size = placeholder(int)
  config.augment = placeholder(str)
  config.validation = placeholder(int)  # images held out of training
  config.num_workers = 0  # processes of the input pipeline
  # Different corrupt records of a split that are left out and named; one more
  # stops the run.
  config.skip_corrupt = placeholder(int)
  config.batch_size = 64
  # Parts of a batch that go through the model one after another, to save
  # memory; the gradient stays the whole batch's.
  config.accumulate_steps = placeholder(int)
  # Devices that share out weights, momenta and thresholds; else each has all.
  config.fsdp = placeholder(int)
  config.eval_batch_size = 256
  config.total_steps = placeholder(int)
  config.total_epochs = placeholder(float)
  config.label_smoothing = 0.0
  # Of training images, to re-estimate BatchNorm's statistics with at the end.
  config.norm_batches = 0
  # The folder of a run, or a file with names of PyTorch, to start from.
  config.init_from = placeholder(str)

  config.model = ConfigDict()
  config.model.name = 'convnet'
  config.model.dtype = 'float32'  # of the computation; parameters: float32
  config.model.lowering = 'auto'  # 'xla', 'cpu', or by the devices at hand
  config.model.classifier_bias = placeholder(bool)
  config.model.first_layer_dense = False
  config.model.last_layer_dense = False
  config.model.init = 'fan_in'  # or 'fan_out'
  config.model.density = 1.0  # scales the fan of the initialisation
  config.model.norm_momentum = 0.9
  config.model.dropout = placeholder(float)  # of wide resnets
  config.model.hidden = placeholder(int)  # of fastgrnn, see there
  config.model.w_rank = placeholder(int)
  config.model.u_rank = placeholder(int)
  config.model.gated = placeholder(bool)
  config.model.patch = placeholder(int)  # of vits, see there
  config.model.width = placeholder(int)
  config.model.depth = placeholder(int)
  config.model.heads = placeholder(int)
  config.model.mlp_ratio = placeholder(float)

  config.method = ConfigDict()
  config.method.name = 'dense'
  config.method.init_value = placeholder(float)
  config.method.g = placeholder(str)
  config.method.granularity = placeholder(str)
  config.method.slope = placeholder(float)
  config.method.sparsity = placeholder(float)
  config.method.budget = placeholder(str)  # a name, or FILE.csv
  config.method.pattern = placeholder(str)  # '2:4': so many of so many inputs
  # How sparse the net is to be over all layers, to the weight; one of four.
  config.method.target = placeholder(float)  # fraction of zeros
  config.method.target_nonzero = placeholder(int)  # weights kept
  config.method.target_flops = placeholder(float)  # fraction of FLOPs kept
  config.method.target_madds = placeholder(int)  # multiply-adds kept
  config.method.target_floor = placeholder(int)  # weights every layer keeps
  config.method.rate = placeholder(float)
  config.method.power = placeholder(float)
  config.method.rescale = placeholder(bool)
  config.method.hard = placeholder(bool)
  config.method.gradient = placeholder(str)
  config.method.gradient_scale = placeholder(float)
  config.method.hold = placeholder(str)  # sparsity rises by 'step' or 'epoch'
  config.method.start_steps = placeholder(int)
  config.method.start_epochs = placeholder(float)
  config.method.end_steps = placeholder(int)
  config.method.end_epochs = placeholder(float)
  # From this step on: zeros are frozen, and the rest trains on as scheduled.
  config.method.freeze_steps = placeholder(int)
  config.method.freeze_epochs = placeholder(float)
  # After the training: zeros are frozen, and the rest trains on, at a rate of
  # its own, or on the schedule from the step rewound to until its end.
  config.method.finetune_steps = placeholder(int)
  config.method.finetune_epochs = placeholder(float)
  config.method.finetune_learning_rate = placeholder(float)
  config.method.rewind_steps = placeholder(int)
  config.method.rewind_epochs = placeholder(float)

  # Iterative magnitude pruning: a dense run, then rounds that each prune an
  # equal share of the weights left and train again (str_jax/training/imp.py).
  config.imp = ConfigDict()
  config.imp.rounds = placeholder(int)  # after the dense one
  config.imp.sparsity = placeholder(float)  # after the last round
  config.imp.rewind_steps = placeholder(int)  # weights go back to this step
  config.imp.rewind_epochs = placeholder(float)  # both None: only the rate

  config.optimizer = ConfigDict()
  config.optimizer.name = 'sgd'
  config.optimizer.momentum = 0.9
  config.optimizer.nesterov = False
  config.optimizer.b1 = 0.9  # of adam and adamw
  config.optimizer.b2 = 0.999
  config.optimizer.eps = 1e-8
  config.optimizer.clip_norm = placeholder(float)
  config.optimizer.coupled = True  # decay joins the gradient, as in PyTorch
  config.optimizer.weight_decay = 0.0
  config.optimizer.threshold_decay = placeholder(float)  # else weight_decay
  config.optimizer.dense_decay = placeholder(float)  # kernels without one
  config.optimizer.norm_decay = placeholder(float)
  config.optimizer.bias_decay = placeholder(float)

  config.schedule = ConfigDict()
  config.schedule.name = 'cosine'
  config.schedule.learning_rate = 0.1
  config.schedule.hold = 'step'  # or 'epoch': one value an epoch
  config.schedule.warmup_steps = placeholder(int)
  config.schedule.warmup_epochs = placeholder(float)
  config.schedule.boundaries_epochs = ()  # of multistep
  config.schedule.factor = 0.1  # of multistep and exponential

  config.log_every_steps = 50
  config.wandb = placeholder(str)  # project of Weights and Biases
  config.eval_every_steps = placeholder(int)
  config.eval_every_epochs = placeholder(float)
  config.checkpoint_every_steps = placeholder(int)
  config.checkpoint_every_epochs = placeholder(float)
  config.checkpoint_keep_steps = placeholder(int)  # a step whose one stays
  config.checkpoint_keep_epochs = placeholder(float)
  config.lock()
  return config


def with_variant(
  config: ConfigDict,
  variant: str | None,
  variants: Mapping[str, Mapping[str, Any]],
  default: str,
) -> ConfigDict:
  """The config with a variant's fields set.

  Args:
    config: the base, common to all variants.
    variant: a key of ``variants``, or None or '' for the default one.
    variants: by name, the fields that a variant sets, with dotted names.
    default: the variant that is taken when none is named.

  Returns:
    The config.

  Raises:
    ValueError: an unknown variant; the sentence lists the known ones.
    KeyError: a variant sets a field that the config does not have.
  """
  variant = variant or default
  if variant not in variants:
    raise ValueError(
      f'the config {config.name} has no variant {variant!r}; it has '
      f'{", ".join(variants)}.'
    )
  config.variant = variant
  config.update_from_flattened_dict(variants[variant])
  return config
