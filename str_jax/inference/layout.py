"""How tensors and weights lie in memory for the C++ kernels."""

from __future__ import annotations

import dataclasses

import numpy as np

from str_jax.inference.network import IMAGES, Conv, Kernel, Network

LANES = 16  # numbers of a vector
ROWS = 8  # rows that the dense kernel computes together
TILE = Kernel.vectors * LANES  # positions, the most
CACHE = 1 << 15  # bytes of the first cache for a block's input


@dataclasses.dataclass(frozen=True)
class Layout:
  """How an image's tensor lies in memory; kernels/tensor.h has the picture.

  Attributes:
    channels: planes of an image.
    height: rows of a plane that hold values.
    width: values of a row.
    gap: zeros after each row, and rows of zeros before each plane.
  """

  channels: int
  height: int
  width: int
  gap: int = 1

  @property
  def row(self) -> int:
    return self.width + self.gap

  @property
  def begin(self) -> int:
    """Where the values of a plane begin."""
    return _round(self.gap * self.row)

  @property
  def plane(self) -> int:
    return self.begin + _round(self.height * self.row)

  @property
  def slack(self) -> int:
    """Zeros after the last plane: what a last tile reads beyond it."""
    return _round(self.gap * (self.row + 1) + TILE)

  @property
  def size(self) -> int:
    return LANES + self.channels * self.plane + self.slack

  def numbers(self) -> np.ndarray:
    """What the kernels are told."""
    return np.array(
      [self.channels, self.height, self.width, self.gap, self.slack], np.int64
    )

  def halved(self, phases: int) -> Layout:
    """That of every second row and column, `phases` planes a channel."""
    return dataclasses.replace(
      self,
      channels=self.channels * phases,
      height=-(-self.height // 2),
      width=-(-self.width // 2),
    )


def _round(n: int) -> int:
  """Up to a multiple of 16."""
  return -(-n // LANES) * LANES


def gaps(network: Network) -> dict[str, int]:
  """The gap of every tensor, which no tap of a convolution reaches across."""
  # Single pixels reach nowhere; pools and depthwise kernels by one.
  pixels = all(
    isinstance(node, Conv) and node.kernel.shape[:2] == (1, 1)
    for node in network
  )
  least = 0 if pixels else 1
  found = {IMAGES: least}
  for node in network:
    reach = least
    if isinstance(node, Conv) and not node.depthwise:
      reach = max(least, -(-(node.kernel.shape[0] // 2) // node.stride))
      if node.stride == 1:  # reads its source as it lies
        reach = found[node.source] = max(reach, found[node.source])
    found[node.name] = reach
  return found


def offsets(node: Conv, layout: Layout) -> np.ndarray:
  """How far the input of each tap lies: (in, height, width)."""
  size = node.kernel.shape[0]
  taps = np.arange(size) - size // 2
  channel = np.arange(node.kernel.shape[2])[:, np.newaxis, np.newaxis]
  y, x = taps[:, np.newaxis], taps[np.newaxis]
  if node.stride == 1 or size == 1:
    return channel * layout.plane + (y * layout.row + x)[np.newaxis]
  # Row -1 is the last odd one before the first even one.
  phase = (y % 2) * 2 + x % 2
  within = phase * layout.plane + (y // 2) * layout.row + x // 2
  return channel * 4 * layout.plane + within[np.newaxis]


def pack_sparse(
  rows: np.ndarray, offsets: np.ndarray, block: int
) -> tuple[np.ndarray, np.ndarray]:
  """(value, offset) of each weight that is not zero, and where rows start.

  Args:
    rows: weights (out, taps).
    offsets: of the taps.
    block: taps of a block; the rows come one after the other in each.

  Returns:
    The taps (nonzero, 2) and the starts (blocks * out + 1,).
  """
  missing = -rows.shape[1] % block
  padded = np.pad(rows, ((0, 0), (0, missing)))
  blocks = padded.reshape(len(rows), -1, block).transpose(1, 0, 2)
  found = blocks != 0
  number, _, column = np.nonzero(found)
  taps = np.empty((len(number), 2), np.int32)
  taps[:, 0] = blocks[found].astype(np.float32).view(np.int32)
  taps[:, 1] = offsets[number * block + column]
  starts = np.concatenate([[0], np.cumsum(found.sum(axis=2))])
  return taps, starts.astype(np.int32)


def pack_dense(
  rows: np.ndarray, offsets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Weights in groups of rows, (groups, taps, rows of a group)."""
  missing = -len(rows) % ROWS
  padded = np.pad(rows, ((0, missing), (0, 0))).astype(np.float32)
  groups = padded.reshape(-1, ROWS, rows.shape[1]).transpose(0, 2, 1)
  return np.ascontiguousarray(groups).view(np.int32), offsets.astype(np.int32)
