"""Signals that end a run at the end of the step at hand."""

from __future__ import annotations

import os
import signal
from typing import Any

import jax
from jax.experimental import multihost_utils


class Interrupt:
  """Notes SIGTERM and Ctrl-C, so that the step at hand can end.

  Of several processes any may get the signal, and all end at the same step:
  JAX's own handler of SIGTERM tells the others, and Ctrl-C goes the same way.
  """

  def __init__(self) -> None:
    self._signal: str | None = None
    self._before: dict[int, Any] = {}
    self._several = jax.process_count() > 1

  def __enter__(self) -> Interrupt:
    numbers = [signal.SIGINT, signal.SIGTERM][: 1 if self._several else 2]
    for number in numbers:
      try:
        self._before[number] = signal.signal(number, self._note)
      except ValueError:  # not in the main thread: a notebook, say
        break
    return self

  def __exit__(self, *unused: Any) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def at(self, step: int) -> str | None:
    """The signal that ends the run here, if any.

    Args:
      step: the step that is done; all processes ask at every step.

    Returns:
      Its name, or None.
    """
    if not self._several:
      return self._signal
    stops = multihost_utils.reached_preemption_sync_point(step)
    return self._signal or 'SIGTERM' if stops else None

  def _note(self, number: int, frame: Any) -> None:
    del frame
    if self._signal:  # a second one does not wait
      raise KeyboardInterrupt
    self._signal = signal.Signals(number).name
    if self._several:
      os.kill(os.getpid(), signal.SIGTERM)
