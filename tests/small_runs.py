"""Commands of the trainer, run as they are given but small."""

import sys

import documents
import jax
import jax.numpy as jnp
from absl import flags as absl_flags

import str_jax
from str_jax import budgets, models
from str_jax.interop import files
from str_jax.training import flags

# A run is made this small; what its command sets stays.
SMALL = {
  'total_steps': 2,
  'total_epochs': None,
  'batch_size': 8,
  'schedule.warmup_steps': 0,
  'schedule.warmup_epochs': None,
}
COURSE = {
  'method.start_steps': 0,
  'method.start_epochs': None,
  'method.end_steps': 2,
  'method.end_epochs': None,
}
NETWORKS = {
  'convnet': {'widths': (4,)},
  'resnet8': {'stage_sizes': (1,), 'width': 4},
  'resnet20': {'stage_sizes': (1,), 'width': 4},
  'resnet50': {'stage_sizes': (1,), 'width': 4},
  'vit_micro': {'width': 8, 'depth': 1, 'heads': 2, 'patch': 8},
}
LAYERS = ('stem', 'stage1_block1/', 'classifier')  # of what is left of these


def shrink(patch):
  """Has runs of this process be small ones, on one device."""
  load_config, load_budget = flags.load_config, budgets.load_published

  def load_small(spec, overrides=()):
    config, changes = load_config(spec, overrides)
    values = dict(SMALL)
    if config.method.end_steps or config.method.end_epochs:
      values |= COURSE
    if config.dataset not in ('digits', 'cifar10'):
      values['image_size'] = 32
    if config.dataset == 'cifar10':
      values['validation'] = 8
    kept = {
      name: value for name, value in values.items() if name not in changes
    }
    config.update_from_flattened_dict(kept | {'num_workers': 0})
    return config, changes

  def load_small_budget(name):
    found = load_budget(name).items()
    return {layer: p for layer, p in found if layer.startswith(LAYERS)}

  patch.setattr(flags, 'load_config', load_small)
  patch.setattr(budgets, 'load_published', load_small_budget)
  for name, sizes in NETWORKS.items():
    model, usual = models._MODELS[name]
    patch.setitem(models._MODELS, name, (model, usual | sizes))


def run_main(words):
  """main.py in this process."""
  import main

  sys.argv = list(words)
  try:
    main.main(flags.parse(sys.argv))
  finally:
    for name in documents.MAIN_FLAGS:  # or they hold for the next command
      absl_flags.FLAGS[name].unparse()


def train_in_sweep(trial, signals):
  """A run of a sweep in this process too; it always finishes."""
  del signals
  run_main(['main.py', *trial.arguments])
  return ''


def checkpoint(path):
  """A checkpoint as STR's released code saves it, of ImageNet's classes."""
  from str_jax.interop import torch

  method = str_jax.methods.create('str', init_value=-3.0)
  model = models.create('resnet50', num_classes=1000, method=method)
  variables = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
  state_dict = torch.to_state_dict(method, variables, 'resnet50')
  files.write(path, {f'module.{k}': v for k, v in state_dict.items()})


def photos(path):
  from data import test_data_folder

  test_data_folder.write_images(path)


def tars(path):
  from data import test_data_imagenet

  test_data_imagenet.write_tars(path, 4)
