"""Small runs of the trainer, each made once and looked at by many tests."""

import json
import pathlib
import shutil

import pytest

from configs import common
from str_jax.training import loop, page
from str_jax.training import stage as stages

_create = stages.create
_stages = {}
# What a stage does not depend on: tests that change these compile nothing.
_NOT_COMPILED = (
  ('name', 'variant', 'data_dir', 'num_workers', 'eval_batch_size')
  + ('init_from', 'validation', 'log_every_steps', 'eval_every_steps')
  + ('eval_every_epochs', 'checkpoint_every_steps', 'checkpoint_every_epochs')
  + ('checkpoint_keep_steps', 'checkpoint_keep_epochs', 'imp')
)

METHODS = {
  'dense': {},
  'str': {
    'method.init_value': -3.0,
    'optimizer.weight_decay': 5e-3,
    'optimizer.threshold_decay': 0.1,
  },
  # Fine-tuned with its zeros frozen, from step 12 on.
  'st3': {
    'method.sparsity': 0.8,
    'method.start_steps': 2,
    'method.end_steps': 8,
    'method.finetune_steps': 6,
    'method.finetune_learning_rate': 0.05,
    'optimizer.clip_norm': 3.0,
    'total_steps': 12,
  },
}


def _shared_create(config, plan, phase, dataset, placement):
  fields = {k: v for k, v in config.items() if k not in _NOT_COMPILED}
  fields = {
    k: v.to_dict() if hasattr(v, 'to_dict') else v for k, v in fields.items()
  }
  key = (json.dumps(fields), phase, dataset.image_shape, placement)
  if key not in _stages:
    _stages[key] = _create(config, plan, phase, dataset, placement)
  return _stages[key]


@pytest.fixture
def quick(monkeypatch):
  """Equal stages are compiled once; pictures have tests of their own."""
  monkeypatch.setattr(stages, 'create', _shared_create)
  monkeypatch.setattr(page, 'write', lambda directory: None)


@pytest.fixture(scope='session')
def make_config():
  """A small run on the digits: 18 or 20 steps, 19 of them an epoch."""

  def make(method='dense', **fields):
    config = common.get_config()
    with config.unlocked():
      config.model.widths = (4, 8)
    base = {
      'total_steps': 20,
      'log_every_steps': 3,
      'eval_every_steps': 5,
      'checkpoint_every_steps': 4,
      'method.name': method,
      **METHODS[method],
    }
    config.update_from_flattened_dict(
      base | {k.replace('__', '.'): v for k, v in fields.items()}
    )
    return config

  return make


def _copy(source, target):
  """Copies a folder that a run is writing: files may vanish meanwhile."""

  def copy(a, b):
    try:
      shutil.copyfile(a, b)
    except FileNotFoundError:
      pass

  try:
    shutil.copytree(source, target, copy_function=copy)
  except shutil.Error:
    pass


class Recorded:
  """A finished run, and its folder as it was at every step of it."""

  def __init__(self, config, directory):
    self.config = config
    self.directory = directory / 'run'
    self._moments = directory / 'moments'
    self._step = 0

  def train(self):
    def recording(placement, batches):
      for batch in batches:
        self._step += 1
        _copy(self.directory, self._moments / str(self._step))
        yield placement.put(batch)

    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(stages, 'create', _shared_create)
      patch.setattr(page, 'write', lambda directory: None)
      patch.setattr(stages.Placement, 'ahead', recording)
      self.summary = loop.train(self.config, self.directory)

  def at(self, step, target):
    """What a kill while a step was made would have left, copied."""
    shutil.copytree(self._moments / str(step), target)
    return target

  @property
  def lines(self):
    return (self.directory / 'metrics.jsonl').read_bytes()


@pytest.fixture(scope='session')
def recorded(make_config, tmp_path_factory):
  """From a method's name to its recorded run."""
  runs = {}

  def get(method) -> Recorded:
    if method not in runs:
      runs[method] = Recorded(
        make_config(method), tmp_path_factory.mktemp(f'recorded-{method}')
      )
      runs[method].train()
    return runs[method]

  return get


@pytest.fixture(scope='session')
def assert_same_run():
  """Two runs gave the same numbers, to the last bit and byte."""

  def check(directory: pathlib.Path, summary, run: Recorded):
    assert (directory / 'metrics.jsonl').read_bytes() == run.lines
    timed = ('seconds', 'examples_per_second', 'command')
    for name in summary.keys() - set(timed):
      assert summary[name] == run.summary[name], name
    ours, theirs = (
      sorted(p.name for p in (folder / 'checkpoints').iterdir())
      for folder in (directory, run.directory)
    )
    assert ours == theirs

  return check
