"""Random-access sources of records, small enough to pickle for a worker.

A record is `{'image': encoded bytes or an array [H, W, C], 'label': int}`,
uint8 or float32, with `id` or `file_name` where the set has one.
"""

import dataclasses
import fcntl
import json
import struct
from collections.abc import Mapping
from typing import Any, Protocol

import cv2
import numpy as np

Record = Mapping[str, Any]

_COLOUR = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
_GREY = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION
_PNG_MAGIC, _JPEG_MAGIC = b'\x89PNG\r\n\x1a\n', b'\xff\xd8'
# JPEG's start-of-frame markers; those between are tables.
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_BARE = {0x00, 0x01, *range(0xD0, 0xD8)}  # markers that nothing follows
_ENDS = {0xD8, 0xD9, 0xDA}  # markers that come before no frame

MAX_PIXELS = 178_956_970  # of an image; Pillow refuses larger ones too


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


class CorruptRecord(ValueError):
  """A record that holds no image to be read; the message names it."""


class Decoded:
  """The records of another source with `image` as an array [H, W, C].

  Args:
    source: where the records come from.
    split: its name, for the error message.
    channels: 1 (grey) or 3 (RGB).
  """

  def __init__(self, source: Source, split: str, channels: int) -> None:
    self.split = split
    self._source = source
    self._channels = channels

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> dict[str, Any]:
    where = f'record {index} of {self.split}'
    how = 'replace it, or prepare the set anew'
    try:
      record = self._source[index]
    except RuntimeError as error:  # array_record's, of a wrong checksum
      reason = str(error).partition('\n')[0]
      raise CorruptRecord(
        f'{where} cannot be read ({reason}): {how}'
      ) from error
    image = record['image']
    if not isinstance(image, np.ndarray):
      try:
        image = _decode(image, self._channels)
      except ValueError as error:
        raise CorruptRecord(
          f'{where}{_identity(record)} {error}: {how}'
        ) from None
    return {'image': image, 'label': np.int32(record['label'])}


@dataclasses.dataclass(frozen=True)
class Skip:
  """Leave to go on without records that cannot be read.

  Attributes:
    most: how many different ones of a split; one more stops the run.
    file: where they are named, a line of JSON each. Processes may share it;
      what it holds from before counts.
  """

  most: int
  file: str

  def __post_init__(self) -> None:
    if self.most < 1:
      raise ValueError(f'most={self.most}, where 1 or more was wanted')

  def name(self, split: str, index: int, error: CorruptRecord) -> None:
    """Names a record in the file, once.

    Raises:
      ValueError: if these are too many.
    """
    line = {'split': split, 'index': index, 'error': str(error)}
    with open(self.file, 'a+') as file:  # appends, whoever else does
      fcntl.flock(file, fcntl.LOCK_EX)
      file.seek(0)
      text = file.read()
      named = {x['index'] for x in _lines(text) if x['split'] == split}
      if index not in named:
        torn = text and not text.endswith('\n')  # by a kill
        file.write('\n' * bool(torn) + json.dumps(line) + '\n')
    corrupt = len(named | {index})
    if corrupt > self.most:
      raise ValueError(
        f'{corrupt} records of {split} are corrupt, and {self.most} may be '
        f'skipped: they are named in {self.file}. Replace them, prepare the '
        'set anew, or allow more'
      )


class Replaced:
  """Records for training: a corrupt one gives its place to the next."""

  def __init__(self, decoded: Decoded, skip: Skip) -> None:
    self._decoded = decoded
    self._skip = skip
    self._named: set[int] = set()

  def __len__(self) -> int:
    return len(self._decoded)

  def __getitem__(self, index: int) -> dict[str, Any]:
    # It ends: where all are corrupt, they are more than may be skipped.
    while True:
      try:
        return self._decoded[index]
      except CorruptRecord as error:
        if len(self._named) == len(self):
          raise
        if index not in self._named:
          self._skip.name(self._decoded.split, index, error)
          self._named.add(index)
        index = (index + 1) % len(self)


class Weighted:
  """Records for evaluation, with a `weight`: 1, or 0 for a corrupt one.

  Args:
    decoded: the records.
    skip: None: a corrupt one is an error.
    shape: [H, W, C] of the black image in a corrupt one's place.
  """

  def __init__(
    self, decoded: Decoded, skip: Skip | None, shape: tuple[int, int, int]
  ) -> None:
    self._decoded = decoded
    self._skip = skip
    self._shape = shape

  def __len__(self) -> int:
    return len(self._decoded)

  def __getitem__(self, index: int) -> dict[str, Any]:
    try:
      return {**self._decoded[index], 'weight': np.float32(1)}
    except CorruptRecord as error:
      if self._skip is None:
        raise
      self._skip.name(self._decoded.split, index, error)
    image = np.zeros(self._shape, np.uint8)
    return {'image': image, 'label': np.int32(0), 'weight': np.float32(0)}


def image_size(encoded: bytes) -> tuple[int, int] | None:
  """(height, width) as a JPEG's or PNG's header says; None: it is neither."""
  if encoded.startswith(_PNG_MAGIC):
    if len(encoded) < 24:
      return None
    width, height = struct.unpack_from('>II', encoded, 16)
    return height, width
  if not encoded.startswith(_JPEG_MAGIC):
    return None
  at = len(_JPEG_MAGIC)
  while at := encoded.find(b'\xff', at) + 1:  # a marker comes after it
    if len(encoded) < at + 8:
      return None
    marker = encoded[at]
    if marker in _FRAMES:
      return struct.unpack_from('>HH', encoded, at + 4)
    if marker in _ENDS:
      return None
    if marker in _BARE:
      at += 1
    elif marker != 0xFF:  # which fills up
      at += 1 + struct.unpack_from('>H', encoded, at + 1)[0]
  return None


def _decode(encoded: bytes, channels: int) -> np.ndarray:
  """The pixels [H, W, C]; a ValueError ends the sentence 'record 1 ...'."""
  size = image_size(encoded)
  if size is None:
    raise ValueError('is neither a JPEG nor a PNG image')
  height, width = size
  if height * width > MAX_PIXELS:  # before memory is taken for them
    raise ValueError(
      f'says that it is an image of {width} x {height} pixels, and at most '
      f'{MAX_PIXELS} are decoded'
    )
  flags = _GREY if channels == 1 else _COLOUR
  image = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
  if image is None:
    raise ValueError('is not a readable image')
  return image.reshape(*image.shape[:2], channels)


def _lines(text: str) -> list[dict[str, Any]]:
  """The lines of a file of JSON that are whole."""
  lines = []
  for line in text.splitlines():
    try:
      lines.append(json.loads(line))
    except ValueError:  # torn by a kill; named again when it is met
      pass
  return lines


def _identity(record: Record) -> str:
  for key in ('id', 'file_name'):
    if key in record:
      value = record[key]
      text = value.decode() if isinstance(value, bytes) else str(value)
      return f' ({key} {text})'
  return ''
