"""All of a run that can be checked before it: no device, nothing written."""

from __future__ import annotations

import pathlib
from typing import Any

import jax

from str_jax.training import (
  build,
  fields,
  imp,
  init_from,
  setup,
  stage,
  writers_wandb,
)
from str_jax.training import plan as plans


def check(config: Any, needs_data: bool = True) -> None:
  """Refuses what the run of a config would refuse at its start.

  Left to the run itself is what hangs on the devices that it finds: whether
  they divide its batches (``batch_size``, ``accumulate_steps``, ``fsdp``).

  Args:
    config: see configs/common.py; its budget is no file any more.
    needs_data: whether the data set has to be on this machine.

  Raises:
    ValueError: a field that cannot be used.
    FileNotFoundError: the data set, or what it starts from, is not there.
  """
  fields.check(config)
  if all(value is None for value in config.imp.values()):
    _check_run(config, needs_data)
    return
  imp.check(config)
  for number in (0, 1):  # the other rounds differ in their zeros alone
    _check_run(imp.settings(config, number), needs_data)


def _check_run(config: Any, needs_data: bool) -> None:
  writers_wandb.check(config.wandb)
  if config.init_from:
    init_from.check(pathlib.Path(config.init_from), config.model.name)
  try:
    dataset, is_here = setup.dataset_or_like(config)
  except FileNotFoundError:
    if needs_data:
      raise
    build.method(config.method, **build.beside(config))
    return  # its course hangs on the number of images
  if needs_data and not is_here:
    setup.dataset(config)  # says where it was looked for
  inputs = build.Inputs(dataset.image_shape, dataset.num_classes)
  plan = plans.create(config, dataset.size('train'), inputs)
  for phase in plan.phases:
    _, _, init = stage.parts(config, plan, phase, dataset)
    jax.eval_shape(init, config.seed)
