"""A trained network ready to be called: each layer by its fastest kernel."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from str_jax.inference import native, reading, timing
from str_jax.inference.network import (
  DENSE,
  IMAGES,
  Conv,
  Kernel,
  MaxPool,
  Network,
  Node,
)
from str_jax.inference.planar import Planar
from str_jax.inference.xla import Xla

Shape = tuple[int, int, int, int]
Backend = Xla | Planar
MODES = ('auto', 'dense', 'sparse')
BACKENDS = ('auto', 'native', 'xla')


@dataclasses.dataclass(frozen=True)
class Layer:
  """How a layer is computed.

  Attributes:
    name: of the layer.
    weights: their number.
    nonzero: the number of those that are not zero.
    kernel: what computes it.
    seconds: kernel to seconds, of all that were timed; with those of the
      depthwise convolution before it, where one of them computes it, too.
  """

  name: str
  weights: int
  nonzero: int
  kernel: Kernel
  seconds: dict[Kernel, float]


class Executor:
  """A network that computes logits; made by :func:`build`.

  Args of ``__call__``: images, of the shape that it was built for, as the
  model takes them; returns logits (batch, classes), float32.

  Attributes:
    images: the shape of the images.
    together: how many of them are computed together, group by group.
    backend: 'C++' or 'XLA'.
    layers: of each convolution and the classifier, how it is computed.
    note: why it is not the C++ kernels, where these were wanted; else ''.
  """

  def __init__(
    self,
    network: Network,
    images: Shape,
    backend: Backend,
    together: int,
    choice: dict[str, timing.Timing],
    note: str = '',
  ) -> None:
    self.images = images
    self.together = together
    self.backend = backend.name
    self.note = note
    self.layers = [
      Layer(
        node.name,
        node.kernel.size,
        int((node.kernel != 0).sum()),
        choice[node.name].kernel,
        choice[node.name].seconds,
      )
      for node in network
      if not isinstance(node, MaxPool)
    ]
    kernels = {
      node.name: choice[node.name].kernel if node.name in choice else DENSE
      for node in network
    }
    self._arrays = {
      node.name: backend.arrays(node, kernels[node.name]) for node in network
    }

    def group(arrays: Any, x: jax.Array) -> jax.Array:
      made = {IMAGES: backend.enter(x.astype(jnp.float32))}
      for node in network:  # what nobody reads in the end is not computed
        made[node.name] = backend.apply(
          node, kernels[node.name], arrays[node.name], made
        )
      return backend.leave(made[network[-1].name])

    @jax.jit
    def run(arrays: Any, x: jax.Array) -> jax.Array:
      if together == len(x):
        return group(arrays, x)
      groups = x.reshape(-1, together, *x.shape[1:])
      logits = jax.lax.map(functools.partial(group, arrays), groups)
      return logits.reshape(len(x), -1)

    self._run = run

  def __call__(self, images: jax.Array) -> jax.Array:
    if jnp.shape(images) != self.images:
      raise ValueError(
        f'this network was built for images of shape {self.images}, got '
        f'{jnp.shape(images)}: build one for that shape.'
      )
    return self._run(self._arrays, images)


def build(
  model: Any,
  variables: Any,
  images: Iterable[int],
  *,
  mode: str = 'auto',
  backend: str = 'auto',
) -> Executor:
  """Makes a trained network ready to be called on this machine.

  Norms go into the weights. For each layer the fastest kernel is taken, dense
  or sparse, by timing them here with the threads that JAX has. With the C++
  kernels (built on the first use) every convolution but a depthwise one has
  sparse ones; without, in plain JAX, 1x1 convolutions alone.

  Args:
    model: a ConvNet, ResNet or MobileNetV1 of :mod:`str_jax.models`; for any
      other there is :func:`build_function`.
    variables: its variables, with the thresholds of its method.
    images: shape of what it will be called with, (batch, height, width,
      channels).
    mode: 'auto'; 'dense' or 'sparse' to have these kernels wherever there are
      some.
    backend: 'auto', the C++ kernels where they can be had; 'native', these or
      an error; 'xla', plain JAX.

  Returns:
    The :class:`Executor`.

  Raises:
    ValueError: an unknown model, mode or backend, variables of another model,
      or a shape that it cannot take.
    native.Missing: backend='native' and the kernels cannot be had.

  >>> import jax, jax.numpy as jnp, str_jax
  >>> from str_jax import inference
  >>> model = str_jax.models.create('convnet', num_classes=10, widths=(4, 8))
  >>> images = jnp.ones((2, 8, 8, 1))
  >>> variables = model.init(jax.random.key(0), images)
  >>> fast = inference.build(
  ...   model, variables, images.shape, mode='dense', backend='xla')
  >>> logits = model.apply(variables, images)
  >>> bool(jnp.allclose(fast(images), logits, atol=1e-5))
  True
  """
  check_choice(mode, backend)
  shape = tuple(int(n) for n in images)
  if len(shape) != 4 or min(shape) < 1:
    raise ValueError(
      'images must be a shape (batch, height, width, channels), got '
      f'{shape}: give four numbers of 1 or more.'
    )
  network = reading.network(model, variables)
  return of_network(network, shape, mode=mode, backend=backend)


def check_choice(mode: str, backend: str) -> None:
  """Refuses what is no mode or no backend.

  Args:
    mode: one of `MODES`.
    backend: one of `BACKENDS`.

  Raises:
    ValueError: one of them is not.
  """
  for name, value, known in (
    ('mode', mode, MODES),
    ('backend', backend, BACKENDS),
  ):
    if value not in known:
      raise ValueError(
        f'{name} must be one of {", ".join(known)}, got {value!r}.'
      )


def of_network(
  network: Network, images: Shape, *, mode: str, backend: str
) -> Executor:
  """The executor of a network's layers; for :func:`build`.

  Args:
    network: the layers.
    images: shape of the input.
    mode: as for :func:`build`.
    backend: as for :func:`build`.

  Returns:
    The executor.

  Raises:
    ValueError: images of another number of channels.
    native.Missing: as for :func:`build`.
  """
  note = ''
  if backend != 'xla':
    try:
      # Fewer images at a time stay in the caches; more share the calls.
      made = [
        _executor(network, images, Planar, together, mode)
        for together in sorted({1, images[0]})
      ]
      return _fastest(made)
    except native.Missing as error:
      if backend == 'native':
        raise
      note = str(error)
  return _executor(network, images, Xla, images[0], mode, note)


def _executor(
  network: Network,
  images: Shape,
  kind: type[Backend],
  together: int,
  mode: str,
  note: str = '',
) -> Executor:
  backend = kind(network, (together, *images[1:]))
  choice = {
    node.name: _choose(backend, node, mode)
    for node in network
    if not isinstance(node, MaxPool)
  }
  return Executor(network, images, backend, together, choice, note)


def _fastest(made: list[Executor]) -> Executor:
  if len(made) == 1:
    return made[0]
  images = jnp.zeros(made[0].images)
  seconds = timing.seconds(
    {i: functools.partial(run, images) for i, run in enumerate(made)}
  )
  return made[min(seconds, key=seconds.__getitem__)]


def _choose(backend: Backend, node: Node, mode: str) -> timing.Timing:
  """The fastest kernel of those that the mode allows."""
  known = backend.kernels(node)
  asked = [
    kernel
    for kernel in known
    if mode == 'auto' or kernel.sparse == (mode == 'sparse')
  ] or [known[0]]
  if len(asked) == 1:
    return timing.Timing(asked[0], {})
  seconds = timing.seconds(
    {kernel: _call(backend, node, kernel) for kernel in asked}
  )
  return timing.Timing(min(seconds, key=seconds.__getitem__), seconds)


def _call(
  backend: Backend, node: Node, kernel: Kernel
) -> Callable[[], jax.Array]:
  """A layer, and those that another of its kernels computes as well."""
  chain = backend.chain(node)
  kernels = [DENSE] * (len(chain) - 1) + [kernel]
  weights = [backend.arrays(*pair) for pair in zip(chain, kernels)]
  names = {chain[0].source}
  if isinstance(node, Conv) and node.add is not None:
    names.add(node.add)
  examples = {name: backend.example(name) for name in names}

  @jax.jit
  def run(weights: Any, made: dict[str, jax.Array]) -> jax.Array:
    made = dict(made)
    for link, kernel, arrays in zip(chain, kernels, weights):
      made[link.name] = backend.apply(link, kernel, arrays, made)
    return made[node.name]

  return lambda: run(weights, examples)
