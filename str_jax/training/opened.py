"""A run's folder opened to be looked at: its run, and a checkpoint of it."""

from __future__ import annotations

import pathlib

from ml_collections import ConfigDict

from str_jax.training import integrity, loop, records
from str_jax.training.stage import Stage
from str_jax.training.state import State


def checkpoint(
  directory: pathlib.Path,
  which: str = 'last',
  *,
  data_dir: str | None = None,
  eval_batch_size: int | None = None,
) -> tuple[loop.Run, Stage, State]:
  """The run in a folder, with the stage and the state of a checkpoint.

  Args:
    directory: the folder of a run.
    which: 'last', 'best' on validation, or a step.
    data_dir: where TFDS sets lie, in place of the config's.
    eval_batch_size: in place of the config's.

  Returns:
    The run; the stage and the state of the checkpoint.

  Raises:
    FileNotFoundError: no run there, no such checkpoint, or the data set is
      not on this machine.
    ValueError: a file of the run cannot be read.
  """
  path = directory / 'config.json'
  config = ConfigDict(records.read_json(path))
  if data_dir is not None:
    config.data_dir = data_dir
  if eval_batch_size is not None:
    config.eval_batch_size = eval_batch_size
  if config.get('fsdp'):
    config.fsdp = None  # of the devices that it was trained on
  try:
    run = loop.Run(config, directory)
  except AttributeError as error:
    if not isinstance(error.args[0], KeyError):  # not for want of a field
      raise
    raise ValueError(
      f'{path} lacks {error.args[0].args[0]}: restore it, or use the version '
      'of str_jax that the run was made with.'
    ) from error
  try:
    stage, state = run.restore(run.checkpoints.find(which))
  except integrity.Damaged as error:
    raise ValueError(f'{error} Name another by --checkpoint.') from error
  return run, stage, state
