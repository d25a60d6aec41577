"""Checkpoints: the initial one, the last two, the best on validation."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from str_jax.paths import named_leaves
from str_jax.training import records
from str_jax.training.state import State

_POLICY = ocp.checkpoint_managers
UNRANKED = -1.0  # for checkpoints that may not be called the best


class Checkpoints:
  """The checkpoints of one run, saved in the background.

  Each holds a checksum of its arrays: the storage notices a cut file, but
  not every changed byte. One that cannot be read is moved out of the way.

  Args:
    directory: where they lie, one folder a step; made if missing.
    warn: is told about every checkpoint that cannot be read.
  """

  def __init__(
    self, directory: pathlib.Path, warn: Callable[[str], None] = print
  ) -> None:
    self._directory = directory.absolute()
    self._warn = warn
    for step in _steps(self._directory):  # the manager would stumble over them
      folder = self._directory / str(step)
      try:
        with _reading(folder):
          _read_metrics(folder)
      except ValueError as error:
        self._set_aside(step, error)
    self._manager = ocp.CheckpointManager(
      self._directory,
      options=ocp.CheckpointManagerOptions(
        best_fn=lambda metrics: metrics['accuracy'],
        preservation_policy=_POLICY.AnyPreservationPolicy(
          [
            _POLICY.LatestN(2),
            _POLICY.BestN(get_metric_fn=lambda m: m['accuracy'], n=1),
            _POLICY.CustomSteps([0]),
          ]
        ),
      ),
    )

  def save(self, state: State, accuracy: float = UNRANKED) -> None:
    """Saves a state unless its step is saved already.

    Args:
      state: what to save.
      accuracy: on validation; UNRANKED before the network is settled.
    """
    step = int(state.step)
    if step in self._manager.all_steps():
      return
    self._manager.save(
      step,
      args=ocp.args.StandardSave(state),
      metrics={'accuracy': accuracy, 'checksum': _checksum(state)},
      force=True,
    )

  def restore_latest(self, target: Callable[[int], State]) -> State | None:
    """The newest state that can be read, or None if there is no checkpoint.

    Args:
      target: from a step to the abstract state with its shardings.

    Returns:
      The state, or None.

    Raises:
      ValueError: there were checkpoints, but none can be read.
    """
    for unfinished in self._directory.glob('*.orbax-checkpoint-tmp*'):
      shutil.rmtree(unfinished)  # of a kill
    for step in sorted(self._manager.all_steps(), reverse=True):
      abstract = target(step)
      try:
        return self.restore(step, abstract)
      except ValueError as error:
        self._set_aside(step, error)
        self._manager.reload()
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
      ValueError: the checkpoint is damaged.
    """
    folder = self._directory / str(step)
    with _reading(folder):
      state = self._manager.restore(step, args=ocp.args.StandardRestore(target))
      _verify(folder, state)
    return state

  def best(self) -> tuple[int, float] | None:
    """Step and accuracy on validation of the best checkpoint, if any."""
    self._manager.wait_until_finished()
    best = self._manager.best_step()
    if best is None:
      return None
    metrics = self._manager.metrics(best)
    accuracy = UNRANKED if metrics is None else metrics['accuracy']
    return None if accuracy == UNRANKED else (best, accuracy)

  def find(self, which: str) -> int:
    """The step of a checkpoint.

    Args:
      which: 'last', 'best' on validation, or a step.

    Returns:
      The step.

    Raises:
      FileNotFoundError: there is no such checkpoint.
    """
    steps = sorted(self._manager.all_steps())
    best = self.best()
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
    self._manager.wait_until_finished()
    self._manager.close()

  @property
  def _unreadable(self) -> pathlib.Path:
    return self._directory.parent / 'unreadable'

  def _set_aside(self, step: int, error: ValueError) -> None:
    aside = self._unreadable / str(step)
    aside.parent.mkdir(exist_ok=True)
    number = 0
    while aside.exists():
      number += 1
      aside = aside.with_name(f'{step}.{number}')
    (self._directory / str(step)).rename(aside)
    self._warn(f'{error} It was moved to {aside}; one before it is taken.')


def read_variables(workdir: pathlib.Path) -> dict[str, Any]:
  """The variables of a run's last checkpoint, on whatever devices it was made.

  Args:
    workdir: the folder of a run.

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
  folder = directory / str(steps[-1])
  with (
    _reading(folder),
    ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader,
  ):
    tree = reader.metadata(folder / 'default').item_metadata.tree
    as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
    state = reader.restore(
      folder / 'default',
      args=ocp.args.PyTreeRestore(
        restore_args=jax.tree.map(lambda _: as_numpy, tree)
      ),
    )
    _verify(folder, state)
  return state['variables']


def _steps(directory: pathlib.Path) -> list[int]:
  """The steps with a folder of their own, in their order."""
  return sorted(
    int(folder.name) for folder in directory.glob('*') if folder.name.isdigit()
  )


def _read_metrics(folder: pathlib.Path) -> dict[str, Any]:
  """Accuracy and checksum of a checkpoint."""
  metrics = records.read_json(folder / 'metrics' / 'metrics')
  return {name: metrics[name] for name in ('accuracy', 'checksum')}


@contextlib.contextmanager
def _reading(folder: pathlib.Path) -> Iterator[None]:
  """Turns whatever the storage raises on damage into a ValueError."""
  try:
    yield
  except (MemoryError, jax.errors.JaxRuntimeError):  # not the checkpoint's
    raise
  except Exception as error:
    reason = (str(error).splitlines() or [''])[0][:200]
    raise ValueError(
      f'the checkpoint {folder} cannot be read ({type(error).__name__}: '
      f'{reason}).'
    ) from error


def _verify(folder: pathlib.Path, state: Any) -> None:
  if _checksum(state) != _read_metrics(folder)['checksum']:
    raise ValueError('its arrays are not the ones that were saved')


def _checksum(state: Any) -> int:
  """Of all arrays in the order of their names, which any layout keeps."""
  checksum = 0
  for path, leaf in sorted(named_leaves(jax.device_get(state)).items()):
    checksum = zlib.crc32('/'.join(path).encode(), checksum)
    checksum = zlib.crc32(np.asarray(leaf).tobytes(), checksum)
  return checksum
