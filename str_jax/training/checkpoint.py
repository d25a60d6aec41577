"""Checkpoints: the initial one, the last two, the best on validation."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import orbax.checkpoint as ocp

from str_jax.training.state import State

_POLICY = ocp.checkpoint_managers
UNRANKED = -1.0  # for checkpoints that may not be called the best


class Checkpoints:
  """The checkpoints of one run, saved in the background.

  Args:
    directory: where they lie, one folder a step; made if missing.
  """

  def __init__(self, directory: pathlib.Path) -> None:
    self._directory = directory.absolute()
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
      metrics={'accuracy': accuracy},
      force=True,
    )

  def restore_latest(
    self,
    target: Callable[[int], State],
    warn: Callable[[str], None],
  ) -> State | None:
    """The newest state that can be read, or None if there is no checkpoint.

    A checkpoint that cannot be read is moved out of the way.

    Args:
      target: from a step to the abstract state with its shardings.
      warn: is told about every checkpoint that cannot be read.

    Returns:
      The state, or None.

    Raises:
      ValueError: there are checkpoints, but none can be read.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    for step in steps:
      try:
        return self.restore(step, target(step))
      except Exception as error:  # whatever the storage raises on damage
        aside = self._set_aside(step)
        reason = (str(error).splitlines() or [''])[0][:200]
        warn(
          f'the checkpoint of step {step} cannot be read '
          f'({type(error).__name__}: {reason}); it was moved to {aside} and '
          'the one before is taken.'
        )
    if steps:
      raise ValueError(
        f'no checkpoint in {self._directory} can be read: choose another '
        '--workdir to start afresh.'
      )
    return None

  def restore(self, step: int, target: State) -> State:
    """The state of a step.

    Args:
      step: one that was saved.
      target: the abstract state with its shardings.

    Returns:
      The state.
    """
    return self._manager.restore(step, args=ocp.args.StandardRestore(target))

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

  def _set_aside(self, step: int) -> pathlib.Path:
    aside = self._directory.parent / 'unreadable' / str(step)
    aside.parent.mkdir(exist_ok=True)
    number = 0
    while aside.exists():
      number += 1
      aside = aside.with_name(f'{step}.{number}')
    (self._directory / str(step)).rename(aside)
    self._manager.reload()
    return aside


def read_variables(workdir: pathlib.Path) -> dict[str, Any]:
  """The variables of a run's last checkpoint, as NumPy arrays.

  Args:
    workdir: the folder of a run.

  Returns:
    Its Linen collections.

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
  with ocp.CheckpointManager(
    directory, options=ocp.CheckpointManagerOptions(read_only=True)
  ) as manager:
    step = manager.latest_step()
    if step is None:
      raise FileNotFoundError(f'{directory} holds no finished checkpoint.')
    try:
      restored = manager.restore(step, args=ocp.args.StandardRestore())
    except Exception as error:  # whatever the storage raises on damage
      raise ValueError(
        f'the checkpoint {directory / str(step)} cannot be read '
        f'({type(error).__name__}).'
      ) from error
  return restored['variables']
