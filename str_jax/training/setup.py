"""A run made ready: its data, plan, devices and checkpoints."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Generator
from typing import Any

import jax

from str_jax import data
from str_jax.data import imagenet
from str_jax.data.sources import Skip
from str_jax.training import build, distributed, init_from, workdir
from str_jax.training import placement as placements
from str_jax.training import plan as plans
from str_jax.training import stage as stages
from str_jax.training import state as states
from str_jax.training.checkpoint import Checkpoints
from str_jax.training.stage import Stage
from str_jax.training.state import State

# What is known of a set without it: side of the images, classes, training
# images.
_KNOWN = {
  'imagenet2012': (224, 1000, imagenet.FULL['train']),
  'cifar10': (32, 10, 50_000),
  'cifar100': (32, 100, 50_000),
}


def dataset(config: Any) -> data.Dataset:
  """The data set of a config.

  Args:
    config: a config.

  Returns:
    What ``data.load`` gives.

  Raises:
    FileNotFoundError: it is not on this machine.
    ValueError: a field that does not fit it.
  """
  return data.load(
    config.dataset,
    data_dir=config.data_dir,
    image_size=config.image_size,
    validation=config.validation,
    augment=config.augment,
  )


def dataset_or_like(config: Any) -> tuple[data.Dataset, bool]:
  """The data set of a config, or what stands for a known one without it.

  Args:
    config: a config.

  Returns:
    The data set, and whether it is on this machine: else it has its shapes
    and sizes, and no images of it.

  Raises:
    FileNotFoundError: it is not here, and nothing is known of it.
    ValueError: a field that does not fit it.
  """
  try:
    return dataset(config), True
  except FileNotFoundError:
    if config.dataset not in _KNOWN:
      raise
  size, classes, examples = _KNOWN[config.dataset]
  stand_in = data.load(
    'fake',
    image_size=config.image_size or size,
    fake_classes=classes,
    fake_examples=examples,
  )
  return dataclasses.replace(stand_in, name=config.dataset), False


class Setup:
  """What stays the same throughout a run, whether it is trained or looked at.

  Args:
    config: a config.
    directory: its folder, made and claimed here once the config is checked.
  """

  def __init__(self, config: Any, directory: pathlib.Path) -> None:
    if config.get('imp', {}).get('rounds'):
      raise ValueError(
        f'{directory} is to hold a run, but imp.rounds={config.imp.rounds} '
        'makes a loop of runs: train it with main.py, and name the folder of '
        f'a round, as {directory / "round-0"}, to look at one.'
      )
    self.config = config
    self.directory = directory
    self.dataset = dataset(config)
    self.inputs = build.Inputs(
      self.dataset.image_shape, self.dataset.num_classes
    )
    self.plan = plans.create(
      config,
      self.dataset.size('train'),
      self.inputs,
    )
    new = not (directory / 'config.json').exists()
    if new:  # nothing but training asks for it
      self.check_batch()
    self.placement = placements.create(config.get('fsdp') or 1)
    # Checks the other fields.
    self.first_stage = self.stage(self.plan.phases[0])
    if config.init_from and new:
      init_from.check(pathlib.Path(config.init_from), config.model.name)
    distributed.on_first(lambda: workdir.claim(directory, config))
    self.skip = (
      Skip(config.skip_corrupt, str(directory / 'corrupt.jsonl'))
      if config.get('skip_corrupt')
      else None
    )
    self.checkpoints = Checkpoints(
      directory / 'checkpoints', keep=self.plan.kept_step
    )

  def stage(self, phase: plans.Phase) -> Stage:
    """A phase made ready."""
    return stages.create(
      self.config, self.plan, phase, self.dataset, self.placement
    )

  def restore(self, step: int) -> tuple[Stage, State]:
    """The stage and the state of a checkpoint."""
    stage = self.stage(self.plan.phases[self.plan.phase_of(step)])
    return stage, self.checkpoints.restore(step, stage.target)

  def state_of(self, variables: Any, stage: Stage, step: int) -> State:
    """A state with a fresh optimizer around given variables, placed."""
    state = jax.jit(
      lambda variables: states.from_variables(variables, stage.tx, step),
      out_shardings=self.placement.shardings(stage.target),
    )
    return state(self.placement.lay(variables))

  def batches(self, start_step: int = 0) -> Generator[Any, None, None]:
    """This process's share of the training batches, from a step on."""
    return data.train_batches(
      self.dataset,
      self.config.batch_size,
      seed=self.config.seed,
      start_step=start_step,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      num_workers=self.config.num_workers,
      skip=self.skip,
    )

  def evaluate(
    self, stage: Stage, variables: Any, split: str
  ) -> dict[str, float]:
    """Loss and accuracy over a split."""
    return stages.evaluate(
      stage,
      variables,
      self.dataset,
      split,
      self.placement,
      batch_size=self.config.eval_batch_size,
      num_workers=self.config.num_workers,
      skip=self.skip,
    )

  def check_batch(self) -> None:
    """Every device is to get an equal share of a training batch."""
    devices, parts = (
      jax.device_count(),
      self.config.get('accumulate_steps') or 1,
    )
    if self.config.batch_size % (devices * parts):
      times = '' if parts == 1 else f' times accumulate_steps={parts}'
      raise ValueError(
        f'batch_size must be a multiple of the {devices} devices{times}, got '
        f'{self.config.batch_size}.'
      )
