"""Checkpoints: the initial one, the last two, the best, one asked for."""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from str_jax.training import distributed, integrity
from str_jax.training.console import one_line
from str_jax.training.state import State

_POLICY = ocp.checkpoint_managers
_DELETED = 'deleted'  # below the checkpoints, for those that are to go
UNRANKED = -1.0  # for checkpoints that may not be called the best


class Checkpoints:
  """The checkpoints of one run, saved in the background.

  Each holds a checksum of its arrays: the storage notices a cut file, but
  not every changed byte. Only ``save`` and ``restore_latest`` change what lies
  in the folder; the latter moves what cannot be read out of the way.

  Args:
    directory: where they lie, one folder a step; made if missing.
    keep: a step whose checkpoint stays, beside the initial one.
    warn: is told about every checkpoint that cannot be read.
  """

  def __init__(
    self,
    directory: pathlib.Path,
    keep: int | None = None,
    warn: Callable[[str], None] = print,
  ) -> None:
    self._directory = directory.absolute()
    self._warn = warn
    self._keep = keep

  @functools.cached_property
  def _manager(self) -> ocp.CheckpointManager:
    """Opened by the first save: it makes the folder.

    A kill in the middle of deleting would leave half a checkpoint, so one that
    is to go is first moved, which is done whole or not at all.
    """
    return ocp.CheckpointManager(
      self._directory,
      options=ocp.CheckpointManagerOptions(
        best_fn=lambda metrics: metrics['accuracy'],
        todelete_subdir=_DELETED,
        preservation_policy=_POLICY.AnyPreservationPolicy(
          [
            _POLICY.LatestN(2),
            _POLICY.BestN(get_metric_fn=lambda m: m['accuracy'], n=1),
            _POLICY.CustomSteps([0, self._keep or 0]),
          ]
        ),
      ),
    )

  def save(self, state: State, accuracy: float = UNRANKED) -> None:
    """Saves a state unless its step is saved already.

    Args:
      state: what to save.
      accuracy: on validation; UNRANKED before the network is settled.

    Raises:
      OSError: this one, or the one before in the background, failed.
    """
    step = int(state.step)
    if step in self._manager.all_steps():
      return
    metrics = integrity.describe(state, accuracy)
    with self._saving():
      self._manager.save(
        step,
        args=ocp.args.StandardSave(state),
        metrics=metrics,
        force=True,
      )
    if distributed.is_first():
      for folder in (self._directory / _DELETED).glob('*'):  # by earlier saves
        shutil.rmtree(folder, ignore_errors=True)

  def restore_latest(self, target: Callable[[int], State]) -> State | None:
    """The newest state that can be read, or None if there is no checkpoint.

    Args:
      target: from a step to the abstract state with its shardings.

    Returns:
      The state, or None.

    Raises:
      ValueError: there were checkpoints, but none can be read.
    """
    distributed.on_first(self._tidy)
    for step in reversed(_steps(self._directory)):
      abstract = target(step)
      state, damage = None, None
      try:
        state = self.restore(step, abstract)
      except integrity.Damaged as error:
        damage = error
      if distributed.all_agree(damage is None):
        return state
      distributed.on_first(functools.partial(self._set_aside, step, damage))
    if self._unreadable.exists():
      raise ValueError(
        f'no checkpoint of the run can be read, see {self._unreadable}: '
        'choose another --workdir to start afresh.'
      )
    return None

  def restore(self, step: int, target: State) -> State:
    """The state of a step.

    Args:
      step: one that was saved.
      target: the abstract state with its shardings.

    Returns:
      The state.

    Raises:
      ValueError: the checkpoint is damaged, or of a newer format.
    """
    self._wait()
    folder = self._directory / str(step)
    metrics = integrity.read_metrics(folder)
    handler = ocp.StandardCheckpointHandler()
    with integrity.reading(folder), ocp.Checkpointer(handler) as reader:
      state = reader.restore(
        folder / 'default', args=ocp.args.StandardRestore(target)
      )
      integrity.verify(state, metrics)
    return state

  def best(self) -> tuple[int, float] | None:
    """Step and accuracy on validation of the best checkpoint, if any."""
    self._wait()
    ranked = []
    for step in _steps(self._directory):
      with contextlib.suppress(integrity.Damaged):
        metrics = integrity.read_metrics(self._directory / str(step))
        if metrics['accuracy'] != UNRANKED:
          ranked.append((metrics['accuracy'], step))
    if not ranked:
      return None
    accuracy, step = max(ranked)
    return step, accuracy

  def find(self, which: str) -> int:
    """The step of a checkpoint.

    Args:
      which: 'last', 'best' on validation, or a step.

    Returns:
      The step.

    Raises:
      FileNotFoundError: there is no such checkpoint.
    """
    best = self.best()
    steps = _steps(self._directory)
    named = {str(step): step for step in steps}
    if steps:
      named['last'] = steps[-1]
    if best is not None:
      named['best'] = best[0]
    if which not in named:
      raise FileNotFoundError(
        f'{self._directory} has no checkpoint {which!r}; it has '
        f'{", ".join(named) or "none"}.'
      )
    return named[which]

  def close(self) -> None:
    """Waits for the saves in the background, and raises what they raised."""
    self._wait()
    if '_manager' in vars(self):
      with self._saving():
        self._manager.close()
      shutil.rmtree(self._directory / _DELETED, ignore_errors=True)

  def _tidy(self) -> None:
    """Takes away what a kill has left and what saving would stumble over."""
    for left in (_DELETED, '*.orbax-checkpoint-tmp*'):
      for folder in self._directory.glob(left):
        shutil.rmtree(folder)
    for step in _steps(self._directory):
      try:
        integrity.read_metrics(self._directory / str(step))
      except integrity.Damaged as error:
        self._set_aside(step, error)

  def _wait(self) -> None:
    if '_manager' in vars(self):
      with self._saving():
        self._manager.wait_until_finished()

  @contextlib.contextmanager
  def _saving(self) -> Iterator[None]:
    """Turns what the storage raises when it cannot write into a sentence."""
    try:
      yield
    except (ValueError, OSError) as error:
      raise OSError(
        f'a checkpoint could not be saved in {self._directory} '
        f'({_reason(error)}): free space or mend the folder; the same command '
        'goes on from the last one that is whole.'
      ) from error

  @property
  def _unreadable(self) -> pathlib.Path:
    return self._directory.parent / 'unreadable'

  def _set_aside(self, step: int, error: integrity.Damaged | None) -> None:
    aside = self._unreadable / str(step)
    aside.parent.mkdir(exist_ok=True)
    number = 0
    while aside.exists():
      number += 1
      aside = aside.with_name(f'{step}.{number}')
    (self._directory / str(step)).rename(aside)
    reason = error or f'the checkpoint {step} cannot be read by all processes.'
    self._warn(f'{reason} It was moved to {aside}; one before it is taken.')


def read_variables(
  workdir: pathlib.Path, step: int | None = None
) -> dict[str, Any]:
  """The variables of a checkpoint, on whatever devices it was made.

  Args:
    workdir: the folder of a run.
    step: one that was saved; by default the last.

  Returns:
    Its Linen collections, as NumPy arrays.

  Raises:
    FileNotFoundError: no run there, or one without checkpoints.
    ValueError: the checkpoint cannot be read.
  """
  directory = pathlib.Path(workdir).absolute() / 'checkpoints'
  if not directory.is_dir():
    raise FileNotFoundError(
      f'{workdir} is to be the folder of a run, but it has no checkpoints '
      'folder: name the --workdir of a training run.'
    )
  steps = _steps(directory)
  if not steps:
    raise FileNotFoundError(f'{directory} holds no finished checkpoint.')
  folder = directory / str(steps[-1] if step is None else step)
  metrics = integrity.read_metrics(folder)
  handler = ocp.PyTreeCheckpointHandler()
  with integrity.reading(folder), ocp.Checkpointer(handler) as reader:
    tree = handler.metadata(folder / 'default').tree
    as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
    state = reader.restore(
      folder / 'default',
      args=ocp.args.PyTreeRestore(
        restore_args=jax.tree.map(lambda _: as_numpy, tree)
      ),
    )
    integrity.verify(state, metrics)
  return state['variables']


def _reason(error: Exception) -> str:
  """The system's words, also where they stand in a longer message."""
  number = re.search(r"os_error_code='(\d+)'", str(error))
  if number:
    return os.strerror(int(number[1]))
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  return one_line(error)[:200]


def _steps(directory: pathlib.Path) -> list[int]:
  """The steps with a folder of their own, in their order."""
  return sorted(
    int(folder.name) for folder in directory.glob('*') if folder.name.isdigit()
  )
