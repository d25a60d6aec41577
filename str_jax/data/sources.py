"""Random-access sources of records, small enough to pickle for a worker.

A record is `{'image': encoded bytes or an array [H, W, C], 'label': int}`,
uint8 or float32, with `id` or `file_name` where the set has one.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import cv2
import numpy as np

Record = Mapping[str, Any]

_COLOUR = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
_GREY = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION


class Source(Protocol):
  """What a split is: a length, and a record for every index."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Record: ...


class Arrays:
  """Images [n, H, W, C] and labels [n] in memory."""

  def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
    self._images = images
    self._labels = labels

  def __len__(self) -> int:
    return len(self._images)

  def __getitem__(self, index: int) -> Record:
    return {'image': self._images[index], 'label': int(self._labels[index])}


class Fake:
  """Random images made as they are asked for, to measure throughput.

  Image i is a coarse random pattern of its own, so that images differ as
  photographs do: under noise they would all look alike to a network, and its
  norms would divide by next to nothing.

  Args:
    shape: (H, W, C) of an image.
    num_classes: labels are uniform in [0, num_classes).
    examples: the length.
    seed: the same seed gives the same records.
  """

  _PATCHES = 8  # along each side

  def __init__(
    self,
    shape: tuple[int, int, int],
    num_classes: int,
    examples: int,
    seed: int,
  ) -> None:
    self._shape = shape
    self._num_classes = num_classes
    self._examples = examples
    self._seed = seed

  def __len__(self) -> int:
    return self._examples

  def __getitem__(self, index: int) -> Record:
    # The counter's upper words: the lower ones count the numbers drawn.
    bits = np.random.Philox(key=self._seed, counter=[0, 0, 1, index])
    rng = np.random.Generator(bits)
    height, width, channels = self._shape
    patches = (self._PATCHES, self._PATCHES, channels)
    coarse = rng.integers(0, 256, patches, np.uint8)
    rows, columns = (np.arange(n) * self._PATCHES // n for n in (height, width))
    label = int(rng.integers(self._num_classes))
    return {'image': coarse[:, columns][rows], 'label': label}


class Subset:
  """The records of another source at the given indices [n]."""

  def __init__(self, source: Source, indices: np.ndarray) -> None:
    self._source = source
    self._indices = indices

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, index: int) -> Record:
    return self._source[int(self._indices[index])]


class Decoded:
  """The records of another source with `image` as an array [H, W, C].

  Args:
    source: where the records come from.
    split: its name, for the error message.
    channels: 1 (grey) or 3 (RGB).
  """

  def __init__(self, source: Source, split: str, channels: int) -> None:
    self._source = source
    self._split = split
    self._channels = channels

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    record = self._source[index]
    image = record['image']
    if not isinstance(image, np.ndarray):
      image = _decode(image, self._channels)
    if image is None:
      where = f'record {index} of {self._split}{_identity(record)}'
      raise ValueError(
        f'{where} is not a readable image: replace it, or prepare the set anew'
      )
    return {'image': image, 'label': np.int32(record['label'])}


def _decode(encoded: bytes, channels: int) -> np.ndarray | None:
  if not encoded:
    return None  # cv2 raises on no bytes, and returns None on wrong ones
  buffer = np.frombuffer(encoded, np.uint8)
  if channels == 1:
    image = cv2.imdecode(buffer, _GREY)
    return None if image is None else image[..., np.newaxis]
  return cv2.imdecode(buffer, _COLOUR)


def _identity(record: Record) -> str:
  for key in ('id', 'file_name'):
    if key in record:
      value = record[key]
      text = value.decode() if isinstance(value, bytes) else str(value)
      return f' ({key} {text})'
  return ''
