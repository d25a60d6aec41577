"""Which of several programs is the fastest here."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from str_jax.inference.network import Kernel

_ROUNDS = 5  # of timing; the least disturbed counts
_CALLS = 3  # of a round


@dataclasses.dataclass(frozen=True)
class Timing:
  """The kernel of a layer, and the seconds of those that were timed."""

  kernel: Kernel
  seconds: dict[Kernel, float]


def seconds(functions: Mapping[Any, Callable[[], Any]]) -> dict[Any, float]:
  """Seconds of a call of each, taken in turns.

  Args:
    functions: by any key; each returns arrays.

  Returns:
    For each key the least seconds of a call over the turns.
  """
  best: dict[Any, float] = {}
  for function in functions.values():
    jax.block_until_ready(function())
  for _ in range(_ROUNDS):
    for name, function in functions.items():
      start = time.perf_counter()
      for _ in range(_CALLS):
        jax.block_until_ready(function())  # else several may run at once
      taken = (time.perf_counter() - start) / _CALLS
      best[name] = min(taken, best.get(name, taken))
  return best
