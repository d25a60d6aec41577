"""A network's time beside that of dense ones, in turns on one machine."""

from __future__ import annotations

import dataclasses
import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from str_jax.inference import executor, peers
from str_jax.inference.executor import Executor, Layer
from str_jax.inference.functions import build_function
from str_jax.inference.network import Network

OURS = 'str_jax'
_ROUNDS = 11
_LEAST_SECONDS = 0.02  # of a program's turn
# Threads of other libraries go on spinning after their turn, for 40 ms seen.
_PAUSE_SECONDS = 0.1

Call = Callable[[], object]


@dataclasses.dataclass(frozen=True)
class Row:
  """How a program did.

  Attributes:
    program: its name.
    seconds: of a call, the median over the turns.
    ratio: its seconds over ours, the median over the turns.
    least: the smallest ratio of a turn.
    most: the largest one.
    difference: from our logits, the largest, over the largest of these.
  """

  program: str
  seconds: float
  ratio: float
  least: float
  most: float
  difference: float


@dataclasses.dataclass(frozen=True)
class Comparison:
  """What was measured for images of one shape.

  Attributes:
    images: their shape.
    together: how many of them we compute at a time.
    rows: a program each, ours the first.
    backend: 'C++' or 'XLA', ours.
    layers: how we compute them.
    note: why not by sparse kernels, or not by the C++ ones; else ''.
    missing: packages whose programs could not be measured.
  """

  images: tuple[int, ...]
  together: int
  rows: list[Row]
  backend: str
  layers: list[Layer]
  note: str
  missing: list[str]

  @property
  def best(self) -> Row:
    """The fastest dense program."""
    return min(self.rows[1:], key=lambda row: row.ratio)

  @property
  def speedup(self) -> float:
    """The best dense program's seconds over ours."""
    return self.best.ratio


def compare(
  network: Network,
  images: tuple[int, int, int, int],
  threads: int,
  *,
  rounds: int = _ROUNDS,
) -> Comparison:
  """Times a network beside the same one computed densely.

  The dense programs have the norms folded into the weights as ours has: XLA's,
  our own kernels, ONNX Runtime and PyTorch where they are installed. Each gets
  the images as it likes them best. The programs take turns, and in a turn are
  called until 20 ms have passed.

  Args:
    network: the layers.
    images: shape of the input, (batch, height, width, channels).
    threads: that the other libraries may use; JAX has its own already.
    rounds: turns of each program.

  Returns:
    The :class:`Comparison`.

  Raises:
    ValueError: images of another number of channels.
  """
  values = np.random.default_rng(0).normal(size=images).astype(np.float32)
  batch = jnp.asarray(values)

  def build(mode: str, backend: str = 'auto') -> Executor:
    return executor.of_network(network, images, mode=mode, backend=backend)

  ours = build('auto')
  programs: dict[str, Call] = {
    OURS: _call(ours, batch),
    'XLA, dense': _call(build('dense', 'xla'), batch),
  }
  if ours.backend != 'XLA':
    programs['str_jax, dense'] = _call(build('dense'), batch)
  missing = []
  for name, packages, peer in (
    ('ONNX Runtime, dense', ('onnx', 'onnxruntime'), peers.onnx_runtime),
    ('PyTorch, dense', ('torch',), peers.pytorch),
  ):
    if all(map(importlib.util.find_spec, packages)):
      programs[name] = peer(network, values, threads)
    else:
      missing.append(' and '.join(packages))
  return Comparison(
    images,
    ours.together,
    _rows(programs, rounds),
    ours.backend,
    ours.layers,
    f'plain JAX, as {ours.note}' if ours.note else '',
    missing,
  )


def compare_function(
  function: Callable[[Any, jax.Array], jax.Array],
  weights: Any,
  images: tuple[int, ...],
  *,
  others: Mapping[str, Callable[[np.ndarray], Call]] | None = None,
  rounds: int = _ROUNDS,
) -> Comparison:
  """Times a function of weights and images beside itself, computed by XLA.

  Args:
    function: the forward pass.
    weights: its first argument.
    images: shape of the second one.
    others: by name, what makes further programs of the images.
    rounds: as for :func:`compare`.

  Returns:
    The :class:`Comparison`.

  Raises:
    ValueError: a weight is no array.
  """
  values = np.random.default_rng(0).normal(size=images).astype(np.float32)
  batch = jnp.asarray(values)
  ours = build_function(function, weights, batch)
  dense = jax.jit(function)
  programs: dict[str, Call] = {
    OURS: lambda: jax.block_until_ready(ours(batch)),
    'XLA, dense': lambda: jax.block_until_ready(dense(weights, batch)),
  }
  programs |= {name: make(values) for name, make in (others or {}).items()}
  rows = _rows(programs, rounds)
  return Comparison(
    images, images[0], rows, ours.backend, ours.layers, ours.note, []
  )


def _call(run: Executor, images: jax.Array) -> Call:
  return lambda: run(images).block_until_ready()


def _turns(programs: Mapping[str, Call], rounds: int) -> dict[str, list[float]]:
  """Seconds of a call of each program, by round."""
  taken: dict[str, list[float]] = {name: [] for name in programs}
  for _ in range(rounds):
    for name, call in programs.items():
      time.sleep(_PAUSE_SECONDS)
      call()  # whoever came before it left the caches full of its own
      calls, start = 0, time.perf_counter()
      while calls == 0 or time.perf_counter() - start < _LEAST_SECONDS:
        call()
        calls += 1
      taken[name].append((time.perf_counter() - start) / calls)
  return taken


def _rows(programs: Mapping[str, Call], rounds: int) -> list[Row]:
  logits = {name: np.asarray(call()) for name, call in programs.items()}
  seconds = _turns(programs, rounds)
  rows = []
  scale = np.abs(logits[OURS]).max()
  for name, taken in seconds.items():
    ratios = [a / b for a, b in zip(taken, seconds[OURS])]
    difference = np.abs(logits[name] - logits[OURS]).max() / max(scale, 1e-30)
    rows.append(
      Row(
        name,
        statistics.median(taken),
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        float(difference),
      )
    )
  return rows
