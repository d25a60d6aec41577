"""Times programs against each other: each in a process of its own, in turns.

A machine's speed drifts while it is measured. Turns of a second or two, in
the order A B, B A, A B, ..., put the drift on all alike, and a ratio is taken
within a turn; of the turns' ratios the median is reported, and their range.
A process that waits for its turn sleeps.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any


@dataclasses.dataclass
class Program:
  """What a process has built and now runs.

  Attributes:
    run: does so many steps, and returns when the last is over.
    facts: what is to be reported of it: sizes of the compiled program, say.
    peak_bytes: the most memory taken by the steps; by default the process's.
  """

  run: Callable[[int], None]
  facts: dict[str, Any] = dataclasses.field(default_factory=dict)
  peak_bytes: Callable[[], int] | None = None


@dataclasses.dataclass(frozen=True)
class Contender:
  """A program by its name; built where it runs, by a function of a module.

  Attributes:
    name: for the tables.
    build: makes the program; libraries are imported by it, not before.
    settings: keyword arguments of ``build``.
    environment: variables of its process, set before it starts.
  """

  name: str
  build: Callable[..., Program]
  settings: dict[str, Any]
  environment: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Result:
  """What was measured of a contender.

  Attributes:
    seconds: of one step, a number a turn.
    first_seconds: from the start of ``build`` to the end of the first step.
    peak_bytes: the most memory that the steps took.
    facts: as the program gave them.
  """

  seconds: list[float]
  first_seconds: float
  peak_bytes: int
  facts: dict[str, Any]


def measure(
  contenders: Sequence[Contender],
  *,
  alternations: int,
  seconds: float,
  threads: int,
) -> dict[str, Result]:
  """Runs the contenders in turns.

  Args:
    contenders: with different names.
    alternations: turns of each.
    seconds: about the length of a turn; at least one step is made.
    threads: cores that each process may use, the same for all.

  Returns:
    By name, what was measured.

  Raises:
    RuntimeError: a contender failed; its own error is on the terminal.
  """
  context = multiprocessing.get_context('spawn')
  workers = {}
  try:
    for c in contenders:
      here, there = context.Pipe()
      process = context.Process(
        target=_work, args=(there, c.build, c.settings, threads), daemon=True
      )
      with _environment(c.environment):
        process.start()
      there.close()
      workers[c.name] = process, here
      first, step = _answer(c.name, here)  # one after the other, undisturbed
      counts = max(1, round(seconds / step))
      workers[c.name] = process, here, counts, first
    times: dict[str, list[float]] = {name: [] for name in workers}
    for turn in range(alternations):
      for name in list(workers)[:: 1 if turn % 2 == 0 else -1]:
        _, pipe, steps, _ = workers[name]
        pipe.send(steps)
        times[name].append(_answer(name, pipe) / steps)
    results = {}
    for name, (_, pipe, _, first) in workers.items():
      pipe.send(0)
      peak, facts = _answer(name, pipe)
      results[name] = Result(times[name], first, peak, facts)
    return results
  finally:
    for process, *_ in workers.values():
      process.terminate()


def add_arguments(parser: argparse.ArgumentParser, *, seconds: float) -> None:
  """The options of a script that measures: ``measure``'s, and --no-write."""
  parser.add_argument('--threads', type=int, default=os.cpu_count())
  parser.add_argument('--alternations', type=int, default=5)
  parser.add_argument(
    '--seconds', type=float, default=seconds, help='of a turn'
  )
  parser.add_argument('--no-write', dest='write', action='store_false')


def ratios(result: Result, over: Result) -> tuple[float, float, float]:
  """Speed of one over the speed of another: median, least, most of the turns.

  >>> fast, slow = Result([1.0, 1.0], 0, 0, {}), Result([2.0, 4.0], 0, 0, {})
  >>> ratios(fast, slow)
  (3.0, 2.0, 4.0)
  """
  each = [b / a for a, b in zip(result.seconds, over.seconds, strict=True)]
  return statistics.median(each), min(each), max(each)


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
  """Variables that a process started meanwhile is born with."""
  before = dict(os.environ)
  os.environ.update(variables)
  try:
    yield
  finally:
    os.environ.clear()
    os.environ.update(before)


def _answer(name: str, pipe: Connection) -> Any:
  try:
    return pipe.recv()
  except EOFError:
    raise RuntimeError(f'{name} failed: see above.') from None


def _work(
  pipe: Connection,
  build: Callable[..., Program],
  settings: dict[str, Any],
  threads: int,
) -> None:
  """The life of a process: build, then steps as they are asked for."""
  # Before any library counts the cores.
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
  began = time.perf_counter()
  program = build(**settings)
  program.run(1)
  first = time.perf_counter() - began
  program.run(1)
  _reset_peak()
  began = time.perf_counter()
  program.run(1)
  pipe.send((first, time.perf_counter() - began))
  while steps := pipe.recv():
    began = time.perf_counter()
    program.run(steps)
    pipe.send(time.perf_counter() - began)
  pipe.send(((program.peak_bytes or _peak)(), program.facts))


def _reset_peak() -> None:
  """Forgets the memory that building and compiling took."""
  with open('/proc/self/clear_refs', 'w') as file:
    file.write('5')


def _peak() -> int:
  """The most memory that this process held at once, in bytes."""
  with open('/proc/self/status') as file:
    lines = dict(line.split(':', 1) for line in file)
  return int(lines['VmHWM'].split()[0]) * 1024
