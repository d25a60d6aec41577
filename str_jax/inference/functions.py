"""Any function of weights, with those that have zeros by sparse kernels."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from str_jax.inference import native
from str_jax.inference.executor import Layer, check_choice
from str_jax.inference.network import DENSE, IMAGES, Conv, Kernel
from str_jax.inference.planar import Planar
from str_jax.inference.products import Product, product
from str_jax.inference.program import Program, trace
from str_jax.inference.timing import Timing, seconds
from str_jax.inference.xla import Xla

_MOST = 0.6  # of the weights; beyond, no kernel gains by the zeros
_SMALL = 64  # numbers of a constant, at the most
_STEPS = 20  # of density, within which layers are taken for alike

Call = Callable[[Any, jax.Array], jax.Array]  # of arrays and the operand


@dataclasses.dataclass(frozen=True, eq=False)
class _Way:
  """A way to compute a product: what is called, with which arrays."""

  call: Call
  arrays: Any


Ways = dict[Kernel, Callable[[], _Way]]


@dataclasses.dataclass(frozen=True, eq=False)
class _Chosen:
  """A product of a program, and how it is computed."""

  product: Product
  timing: Timing
  way: _Way

  @property
  def slot(self) -> int:
    """Of its result."""
    return self.product.step.results[0].slot


class SparseFunction:
  """A function whose weights are known; made by :func:`build_function`.

  Args of ``__call__``: inputs of the shapes that it was built for; returns what
  the function returns.

  Attributes:
    layers: of each product of the input with a weight that has zeros, how it
      is computed. Those inside of loops, and those with fewer than 40% zeros,
      are not among them and stay as they are.
    backend: 'C++' or 'XLA': where kernels could be chosen from.
    seconds: of a call, 'sparse' and 'dense', where both were timed.
    note: why the C++ kernels, or any, were not taken; else ''.
  """

  def __init__(
    self,
    program: Program,
    known: Mapping[int, jax.Array],
    shapes: Any,
    chosen: Sequence[_Chosen],
    backend: str,
    note: str = '',
  ) -> None:
    self.layers = [
      Layer(
        one.product.conv.name,
        one.product.weight.size,
        int(np.count_nonzero(one.product.conv.kernel)),
        one.timing.kernel,
        one.timing.seconds,
      )
      for one in chosen
    ]
    self.seconds: dict[str, float] = {}
    self.backend = backend
    self.note = note
    self._shapes = shapes
    taken = [one for one in chosen if one.timing.kernel != DENSE]
    calls = {one.slot: one.way.call for one in taken}
    self._arrays = {one.slot: one.way.arrays for one in taken}
    reads = program.reads([one.product.step for one in taken])
    # Small ones are constants to compute with; others XLA would hold twice.
    small = {s: known[s] for s in reads if known[s].size <= _SMALL}
    self._known = {s: known[s] for s in reads if s not in small}

    @jax.jit
    def run(known: Any, arrays: Any, inputs: Any) -> Any:
      replaced = {
        slot: functools.partial(call, arrays[slot])
        for slot, call in calls.items()
      }
      return program.run(jax.tree.leaves(inputs), small | known, replaced)

    self._run = run

  def __call__(self, *inputs: Any) -> Any:
    shapes = _shapes(inputs)
    if shapes != self._shapes:
      raise ValueError(
        f'this function was built for {self._shapes}, got {shapes}: build one '
        'for these.'
      )
    return self._run(self._known, self._arrays, inputs)


def build_function(
  function: Callable[..., Any],
  weights: Any,
  *inputs: Any,
  mode: str = 'auto',
  backend: str = 'auto',
) -> SparseFunction:
  """Makes any function of weights and inputs ready to be called here.

  What is computed of the weights alone is computed once: a method's thresholds
  may be applied by the function or before. Each product of the input with a
  weight that has zeros, a matrix or a convolution's kernel, is then computed by
  the kernel that is the fastest, dense or sparse, by timing them on this
  machine with the threads that JAX has. The whole is timed too, and stays dense
  where that is faster. The networks that :func:`build` knows are faster by it.

  Args:
    function: the forward pass, ``function(weights, *inputs)``, of arrays alone.
    weights: a pytree of arrays: parameters, or variables.
    *inputs: pytrees of arrays, or of their shapes, which later inputs must
      have; with mode='auto' the function is called on them a few times, on
      zeros where only a shape is given.
    mode: 'auto'; 'dense' or 'sparse' to have these kernels wherever there are
      some.
    backend: 'auto', the C++ kernels where they can be had; 'native', these or
      an error; 'xla', plain JAX, which has sparse products with matrices alone.

  Returns:
    The :class:`SparseFunction`. It cannot be differentiated.

  Raises:
    ValueError: an unknown mode or backend, no function, or a weight that is no
      array or has no numbers yet.
    native.Missing: backend='native' and the kernels cannot be had.

  >>> import jax.numpy as jnp
  >>> from str_jax import inference
  >>> weights = {'w': jnp.eye(3)}
  >>> layer = lambda weights, x: 2 * (x @ weights['w'])
  >>> fast = inference.build_function(
  ...   layer, weights, jnp.ones((2, 3)), mode='sparse', backend='xla')
  >>> fast(jnp.ones((2, 3))).tolist()
  [[2.0, 2.0, 2.0], [2.0, 2.0, 2.0]]
  >>> [(layer.name, layer.nonzero, str(layer.kernel)) for layer in fast.layers]
  [('w', 3, 'CSR')]
  """
  check_choice(mode, backend)
  program, known = trace(function, weights, inputs)
  note, name = '', Xla.name
  if backend != 'xla':
    try:
      native.register()
      name = Planar.name
    except native.Missing as error:
      if backend == 'native':
        raise
      note = str(error)
  chosen = _choices(program, known, mode, name == Planar.name)
  if not chosen:
    note = (
      'no product of the input with a weight, in float32 and not in a loop, '
      f'has {1 - _MOST:.0%} zeros'
    )
  shapes = _shapes(inputs)
  sparse = SparseFunction(program, known, shapes, chosen, name, note)
  if mode != 'auto' or all(one.timing.kernel == DENSE for one in chosen):
    return sparse
  dense = SparseFunction(
    program,
    known,
    shapes,
    [
      dataclasses.replace(one, timing=Timing(DENSE, one.timing.seconds))
      for one in chosen
    ],
    name,
    'the whole is faster dense: what the sparse kernels gain in their layers '
    'is lost around them',
  )
  examples = jax.tree.map(_example, tuple(inputs))
  found = seconds(
    {'sparse': lambda: sparse(*examples), 'dense': lambda: dense(*examples)}
  )
  fastest = sparse if found['sparse'] <= found['dense'] else dense
  fastest.seconds = found
  return fastest


def _choices(
  program: Program,
  known: Mapping[int, jax.Array],
  mode: str,
  with_native: bool,
) -> list[_Chosen]:
  chosen = []
  timings: dict[Any, Timing] = {}
  for step in program.steps:
    found = product(step, known, _MOST)
    if found is None:
      continue
    ways = _ways(found, mode, with_native)
    alike = (found.conv.kernel.shape, found.images, found.conv.stride)
    key = (*alike, str(step.equation.params), round(found.density * _STEPS))
    if key in timings:
      timing = timings[key]
      way = ways[timing.kernel]()
    else:
      timing, way = _fastest(found, ways)
      timings[key] = timing
    chosen.append(_Chosen(found, timing, way))
  return chosen


def _fastest(found: Product, ways: Ways) -> tuple[Timing, _Way]:
  made = {kernel: make() for kernel, make in ways.items()}
  taken = {}
  if len(made) > 1:
    x = jnp.zeros(found.input.aval.shape, found.input.aval.dtype)
    taken = seconds(
      {
        kernel: functools.partial(jax.jit(way.call), way.arrays, x)
        for kernel, way in made.items()
      }
    )
  kernel = min(made, key=lambda kernel: taken.get(kernel, 0.0))
  return Timing(kernel, taken), made[kernel]


def _ways(found: Product, mode: str, with_native: bool) -> Ways:
  """What makes the ways to compute a product, by kernel."""
  dense: Ways = {DENSE: lambda: _Way(found.dense, found.weight)}
  if mode == 'dense':
    return dense
  # Without the weights, which nobody is to hold but as a kernel wants them.
  nothing = np.broadcast_to(np.float32(0), found.conv.kernel.shape)
  hollow = dataclasses.replace(found.conv, kernel=nothing)
  backends: list[Xla | Planar] = [Xla((hollow,), found.images)]
  if with_native:
    try:
      backends.append(Planar((hollow,), found.images))
    except ValueError:  # a tensor larger than its offsets can count
      pass
  sparse: Ways = {
    kernel: functools.partial(_way, backend, found, hollow, kernel)
    for backend in backends
    for kernel in backend.kernels(found.conv)
    if kernel.sparse
  }
  return sparse if mode == 'sparse' and sparse else dense | sparse


def _way(
  backend: Xla | Planar, found: Product, hollow: Conv, kernel: Kernel
) -> _Way:
  enter, leave = found.enter, found.leave

  def call(arrays: Any, x: jax.Array) -> jax.Array:
    made = {IMAGES: backend.enter(enter(x))}
    return leave(backend.leave(backend.apply(hollow, kernel, arrays, made)))

  return _Way(call, backend.arrays(found.conv, kernel))


def _shapes(inputs: Sequence[Any]) -> Any:
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)),
    tuple(inputs),
  )


def _example(x: Any) -> Any:
  """The input itself, or zeros where only its shape is known."""
  known = not isinstance(x, jax.ShapeDtypeStruct | jax.core.Tracer)
  return x if known else jnp.zeros(x.shape, x.dtype)
