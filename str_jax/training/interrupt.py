"""Signals that end a run at the end of the step at hand."""

from __future__ import annotations

import signal
from typing import Any


class Interrupt:
  """Notes SIGTERM and Ctrl-C, so that the step at hand can end."""

  def __init__(self) -> None:
    self.signal: str | None = None
    self._before: dict[int, Any] = {}

  def __enter__(self) -> Interrupt:
    for number in (signal.SIGTERM, signal.SIGINT):
      try:
        self._before[number] = signal.signal(number, self._note)
      except ValueError:  # not in the main thread: a notebook, say
        break
    return self

  def __exit__(self, *unused: Any) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _note(self, number: int, frame: Any) -> None:
    del frame
    if self.signal:  # a second one does not wait
      raise KeyboardInterrupt
    self.signal = signal.Signals(number).name
