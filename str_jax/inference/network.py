"""A network as the layers that inference computes, and their kernels."""

from __future__ import annotations

import dataclasses

import numpy as np

IMAGES = 'images'  # the name of the input


@dataclasses.dataclass(frozen=True, eq=False)
class Conv:
  """A convolution, zero-padded by half of its kernel.

  .. math:: y = relu(w * x + b + z)

  Attributes:
    name: of the layer, and of its output.
    source: the name of its input x.
    kernel: w, (height, width, in, out); (height, width, 1, channels) for a
      depthwise one. Its height and width are odd and equal.
    bias: b, (out,).
    stride: 1 or 2.
    depthwise: whether each channel has a kernel of its own.
    relu: whether negative outputs become 0.
    add: the name of z, or None.
  """

  name: str
  source: str
  kernel: np.ndarray
  bias: np.ndarray
  stride: int = 1
  depthwise: bool = False
  relu: bool = True
  add: str | None = None

  @property
  def density(self) -> float:
    """The fraction of the weights that are not zero."""
    return np.count_nonzero(self.kernel) / self.kernel.size


@dataclasses.dataclass(frozen=True, eq=False)
class MaxPool:
  """The largest of 3 x 3, every 2; padded by 1. Its input is not negative."""

  name: str
  source: str


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
  """The mean over positions, times a matrix.

  Attributes:
    name: of the layer.
    source: the name of its input.
    kernel: (in, classes).
    bias: (classes,).
  """

  name: str
  source: str
  kernel: np.ndarray
  bias: np.ndarray

  @property
  def density(self) -> float:
    """The fraction of the weights that are not zero."""
    return np.count_nonzero(self.kernel) / self.kernel.size


@dataclasses.dataclass(frozen=True)
class Kernel:
  """What computes a layer.

  Attributes:
    sparse: whether it skips the weights that are zero.
    vectors: of 16 positions, that it computes together.
    fused: whether it computes the depthwise convolution before it, too.
    blocked: whether it goes over the input channels in blocks that fit the
      first cache.
    csr: whether it is jaxlib's, of compressed sparse rows.
  """

  sparse: bool = False
  vectors: int = 8
  fused: bool = False
  blocked: bool = False
  csr: bool = False

  def __str__(self) -> str:
    if self.csr:
      return 'CSR'
    name = 'sparse' if self.sparse else 'dense'
    if self.vectors != Kernel.vectors:
      name += f' x{self.vectors}'
    if self.blocked:
      name += ' blocked'
    return f'depthwise + {name}' if self.fused else name


DENSE, SPARSE = Kernel(), Kernel(sparse=True)
CSR = Kernel(sparse=True, csr=True)
Node = Conv | MaxPool | Classifier
Network = tuple[Node, ...]


def shapes(
  network: Network, images: tuple[int, int, int, int]
) -> dict[str, tuple[int, ...]]:
  """The shape of every layer's output.

  Args:
    network: the layers.
    images: shape of the input, (batch, height, width, channels).

  Returns:
    Name to shape, (batch, height, width, channels); that of the classifier is
    (batch, classes).

  Raises:
    ValueError: a layer wants another number of channels than it gets, or adds
      what has another shape.
  """
  made: dict[str, tuple[int, ...]] = {IMAGES: images}
  for node in network:
    batch, height, width, channels = made[node.source]
    if not isinstance(node, MaxPool):
      of_channels = isinstance(node, Conv) and node.depthwise
      wanted = node.kernel.shape[-1 if of_channels else -2]
      if channels != wanted:
        what = f'of the shape {images}' if node is network[0] else node.source
        raise ValueError(
          f'{node.name} wants {wanted} channels, but gets {channels} from '
          f'{"images " * (node is network[0])}{what}: pass images and '
          'variables of the model.'
        )
    if isinstance(node, Classifier):
      made[node.name] = (batch, node.kernel.shape[-1])
      continue
    stride = 2 if isinstance(node, MaxPool) else node.stride
    if isinstance(node, Conv):
      channels = node.kernel.shape[-1]
    size = (-(-height // stride), -(-width // stride))
    shape = made[node.name] = (batch, *size, channels)
    added = node.add if isinstance(node, Conv) else None
    if added is not None and made[added] != shape:
      raise ValueError(
        f'{node.name} is of the shape {shape}, but adds {added} of '
        f'{made[added]}: pass the variables of the model.'
      )
  return made
