"""Where things lie: batches split over all devices, weights over some."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from collections.abc import Generator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from str_jax.paths import KERNEL, THRESHOLD, Path, path_names

_AXES = ('data', 'fsdp')
_AHEAD = 2  # batches on their way to the devices while one is trained on

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Placement:
  """A mesh of devices, and what is split along its axes ``data`` and ``fsdp``.

  A batch is split over all devices. The state is the same on all of them but
  for leaves named ``kernel`` or ``kernel_threshold``, which are split along
  ``fsdp``: weights, their momenta, and thresholds of the weights' shape.

  Attributes:
    mesh: of all devices of all processes.
  """

  mesh: jax.sharding.Mesh

  @property
  def replicated(self) -> NamedSharding:
    """On every device."""
    return NamedSharding(self.mesh, PartitionSpec())

  @property
  def batch(self) -> NamedSharding:
    """Split along the first axis."""
    return NamedSharding(self.mesh, PartitionSpec(_AXES))

  @property
  def fsdp(self) -> int:
    """The number of parts that weights are split into."""
    return self.mesh.shape['fsdp']

  def shardings(self, tree: Any) -> Any:
    """Where the leaves of a state, or of variables, lie.

    Args:
      tree: arrays, or abstract ones.

    Returns:
      The tree with a sharding in the place of every leaf.
    """
    return jax.tree_util.tree_map_with_path(
      lambda path, leaf: self._sharding(path_names(path), leaf.shape), tree
    )

  def share(self, tree: Any) -> tuple[int, int]:
    """What a device holds of a tree, and the whole of it, in bytes.

    Raises:
      ValueError: nothing of it can be split as asked for.
    """
    leaves = jax.tree.leaves(tree)
    split = [
      not sharding.is_fully_replicated
      for sharding in jax.tree.leaves(self.shardings(tree))
    ]
    if self.fsdp > 1 and not any(split):
      raise ValueError(
        f'fsdp={self.fsdp} divides no axis of any weight of this network: '
        'choose a number that does, such as 2, or leave it out.'
      )
    sizes = [leaf.size * leaf.dtype.itemsize for leaf in leaves]
    parts = [n // self.fsdp if s else n for n, s in zip(sizes, split)]
    return sum(parts), sum(sizes)

  def lay(self, tree: Any) -> Any:
    """Arrays of the host, alike on every process, where they are to lie."""
    # Fetched first: JAX 0.10 cannot spread an array of one device over several
    # processes that have one each.
    return jax.device_put(jax.device_get(tree), self.shardings(tree))

  def whole(self, tree: Any) -> Any:
    """Under jit: the tree with the parts of every leaf put together."""
    if self.fsdp == 1:
      return tree
    return jax.lax.with_sharding_constraint(tree, self.replicated)

  def readable(self, tree: Any) -> Any:
    """The tree as every process can read it whole."""
    if self.fsdp == 1:
      return tree
    return jax.jit(lambda x: x, out_shardings=self.replicated)(tree)

  def put(self, batch: Batch) -> dict[str, jax.Array]:
    """This process's share of a batch, as part of the global one."""
    return {
      name: jax.make_array_from_process_local_data(self.batch, value)
      for name, value in batch.items()
    }

  def ahead(
    self, batches: Generator[Batch, None, None]
  ) -> Generator[dict[str, jax.Array], None, None]:
    """Batches on the devices, the next ones sent while one is used.

    Not on a CPU, whose devices' memory is the host's own.

    Args:
      batches: this process's shares, endless or not; closed with the others.

    Yields:
      The global batches, in their order.
    """
    waiting: collections.deque[dict[str, jax.Array]] = collections.deque()
    ahead = 0 if self._on_cpu else _AHEAD
    with contextlib.closing(batches):
      for batch in batches:
        waiting.append(self.put(batch))
        if len(waiting) > ahead:
          yield waiting.popleft()
      yield from waiting

  def settle(self, state: Any) -> None:
    """Waits for a step on several CPU devices, and nowhere else.

    There programs that run at once can block each other for good: XLA's
    collectives wait for each other on threads of one small pool.

    Args:
      state: what the step gave.
    """
    if self._on_cpu and self.mesh.size > 1:
      jax.block_until_ready(state)

  @property
  def _on_cpu(self) -> bool:
    return self.mesh.devices.flat[0].platform == 'cpu'

  def _sharding(self, path: Path, shape: tuple[int, ...]) -> NamedSharding:
    if not path or path[-1] not in (KERNEL, THRESHOLD) or self.fsdp == 1:
      return self.replicated
    # The outputs where they divide: a threshold for each filter lies as they.
    last = len(shape) - 1
    axes = sorted(range(len(shape)), key=lambda a: (a == last, shape[a]))
    for axis in reversed(axes):
      if shape[axis] % self.fsdp == 0:
        spec: list[str | None] = [None] * len(shape)
        spec[axis] = 'fsdp'
        return NamedSharding(self.mesh, PartitionSpec(*spec))
    return self.replicated


def create(
  fsdp: int = 1, devices: Sequence[jax.Device] | None = None
) -> Placement:
  """A mesh of devices, by default all of all processes.

  Args:
    fsdp: parts that weights are split into; the other axis takes the rest.
    devices: those to take.

  Returns:
    A :class:`Placement`.

  Raises:
    ValueError: the devices cannot be divided so.
  """
  count = jax.device_count() if devices is None else len(devices)
  if fsdp < 1 or count % fsdp:
    raise ValueError(
      f'fsdp, the parts that weights are split into, must divide the {count} '
      f'devices, got {fsdp}.'
    )
  kind = (jax.sharding.AxisType.Auto,) * 2
  return Placement(
    jax.make_mesh(
      (count // fsdp, fsdp), _AXES, axis_types=kind, devices=devices
    )
  )
