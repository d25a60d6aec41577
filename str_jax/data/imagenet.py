"""ILSVRC2012 from its two tars: where every image lies, and its class.

The tars are never unpacked. What TFDS's own package says of imagenet2012, the
class names and the labels of the validation images, is read from its files.
"""

import dataclasses
import re
from collections.abc import Iterator

import numpy as np
from etils import epath

from str_jax.data import images, shards, tars

NAME, VERSION = 'imagenet2012', '5.1.0'  # TFDS's
TRAIN_TAR = 'ILSVRC2012_img_train.tar'
VALIDATION_TAR = 'ILSVRC2012_img_val.tar'
FULL = {'train': 1_281_167, 'validation': 50_000}

_TRAIN_NAME = re.compile(r'(?:\./)?(n\d{8})\.tar')
_IMAGE_NAME = re.compile(r'(?:\./)?(n\d{8}_\d+\.JPEG)')
_VALIDATION_NAME = re.compile(r'(?:\./)?(ILSVRC2012_val_(\d{8})\.JPEG)')


@dataclasses.dataclass(frozen=True)
class TarReader:
  """Reads images out of a tar by where they lie.

  Attributes:
    tar: the path of the file.
  """

  tar: str

  def __call__(self, items: np.ndarray) -> Iterator[bytes]:
    """The images of items, all JPEG.

    Raises:
      ValueError: if one is not an image, or too large.
    """
    with epath.Path(self.tar).open('rb') as file:
      for item in items:
        where = f'{item["name"].decode()} in {self.tar}'
        size = int(item['size'])
        images.check_bytes(size, where)
        file.seek(int(item['offset']))
        yield images.standard(file.read(size), where, keep_png=False)


def splits(folder: epath.Path) -> list[shards.Split]:
  """The two splits, by the headers of the tars in a folder.

  Raises:
    FileNotFoundError: if a tar is missing.
    ValueError: if one is not what it should be.
  """
  found = []
  for split, file, index in (
    ('train', TRAIN_TAR, _train),
    ('validation', VALIDATION_TAR, _validation),
  ):
    path = folder / file
    if not path.exists():
      raise FileNotFoundError(
        f'{file} is not in {folder}: download it from https://image-net.org '
        '(an account is needed) and name its folder by --tars'
      )
    items = index(path)
    if not len(items):
      raise ValueError(f'{path} holds no images: fetch it again')
    names, counts = np.unique(items['name'], return_counts=True)
    if len(names) < len(items):
      twice = names[counts > 1][0].decode()
      raise ValueError(f'{path} holds {twice} twice: it is not the archive')
    found.append(shards.Split(split, items, TarReader(str(path))))
  return found


def classes() -> list[str]:
  """The WordNet names of the 1,000 classes, by label."""
  return _tfds_lines('labels.txt')


def _train(path: epath.Path) -> np.ndarray:
  """A tar of a tar a class."""
  labels = {name: i for i, name in enumerate(classes())}
  tables = []
  with path.open('rb') as file:
    for outer in tars.members(file, str(path), 0, path.stat().length):
      match = _TRAIN_NAME.fullmatch(outer.name)
      label = labels.get(match[1]) if match else None
      if label is None:
        raise _unexpected(path, outer.name, "a class's tar, as n01440764.tar")
      where = f'{outer.name!r} in {path}'
      rows = []
      end = outer.offset + outer.size
      for inner in tars.members(file, where, outer.offset, end):
        match = _IMAGE_NAME.fullmatch(inner.name)
        if not match:
          raise _unexpected(where, inner.name, 'n01440764_1.JPEG or the like')
        rows.append((match[1].encode(), label, inner.offset, inner.size))
      tables.append(shards.table(rows))
  return np.concatenate(tables) if tables else shards.table([])


def _validation(path: epath.Path) -> np.ndarray:
  """Images; their labels stand in TFDS's package, by the number in the name."""
  labels = {name: i for i, name in enumerate(classes())}
  by_number = [labels[name] for name in _tfds_lines('validation_labels.txt')]
  rows = []
  with path.open('rb') as file:
    for member in tars.members(file, str(path), 0, path.stat().length):
      match = _VALIDATION_NAME.fullmatch(member.name)
      if not match or not 1 <= int(match[2]) <= len(by_number):
        raise _unexpected(
          path, member.name, 'ILSVRC2012_val_00000001.JPEG to 00050000'
        )
      label = by_number[int(match[2]) - 1]
      rows.append((match[1].encode(), label, member.offset, member.size))
  return shards.table(rows)


def _tfds_lines(file: str) -> list[str]:
  import tensorflow_datasets as tfds

  path = tfds.core.tfds_path(f'datasets/imagenet2012/{file}')
  return path.read_text().split()


def _unexpected(where: epath.Path | str, name: str, wanted: str) -> ValueError:
  return ValueError(
    f'{where} holds {name!r}, where {wanted} was wanted: it is not the archive '
    'of ILSVRC2012'
  )
