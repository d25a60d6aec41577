"""Images in folders by split and class: train/CLASS/*.jpg, val/CLASS/*.jpg.

The folder may lie on a disk or at gs://, s3:// and such: epath lists and
reads it.
"""

import dataclasses
import os
from collections.abc import Iterator

import numpy as np
from etils import epath

from str_jax.data import images, shards
from str_jax.data.sources import CorruptRecord, Record

EXTENSIONS = ('.jpg', '.jpeg', '.png')  # in any case
# TFDS's name of a split, and the folders that may hold it.
_SPLITS = {
  'train': ('train',),
  'validation': ('val', 'validation'),
  'test': ('test',),
}


@dataclasses.dataclass(frozen=True)
class FolderReader:
  """Reads image files; as they are, but for CMYK.

  Attributes:
    folder: of the split.
  """

  folder: str

  def __call__(self, items: np.ndarray) -> Iterator[bytes]:
    """The images of items.

    Raises:
      ValueError: if one is not an image, or too large.
    """
    for item in items:
      path = epath.Path(self.folder) / os.fsdecode(item['name'])
      yield images.standard(_contents(path), str(path), keep_png=True)


@dataclasses.dataclass(frozen=True, eq=False)
class FolderSource:
  """The records of a split, read from their files.

  Attributes:
    folder: of the split.
    items: its images, as `shards.table` has them.
  """

  folder: str
  items: np.ndarray

  def __len__(self) -> int:
    return len(self.items)

  def __getitem__(self, index: int) -> Record:
    item = self.items[index]
    name = os.fsdecode(item['name'])
    try:
      image = _contents(epath.Path(self.folder) / name)
    except ValueError as error:
      raise CorruptRecord(str(error)) from error
    return {
      'image': image,
      'label': int(item['label']),
      'file_name': name,
    }


@dataclasses.dataclass(frozen=True)
class Folder:
  """What a folder of images holds.

  Attributes:
    classes: their names, sorted: a label is a place in this list.
    splits: by TFDS's name, 'train' and at least one of 'validation' and
      'test'.
    notes: a sentence each on what was left out.
  """

  classes: tuple[str, ...]
  splits: dict[str, FolderSource]
  notes: tuple[str, ...]


def read(root: epath.Path) -> Folder:
  """Lists a folder of images.

  Raises:
    FileNotFoundError: if there is no such folder, or no split in it.
    ValueError: a class that cannot be learned or told, or a link that leaves
      the folder.
  """
  if not root.is_dir():
    raise FileNotFoundError(f'there is no folder {root}')
  found = {}
  for split, folders in _SPLITS.items():
    there = [root / name for name in folders if (root / name).is_dir()]
    if len(there) > 1:
      raise ValueError(
        f'{there[0]} and {there[1]} are the same split: remove one'
      )
    if there:
      found[split] = there[0]
  if 'train' not in found or len(found) < 2:
    raise FileNotFoundError(
      f'{root} has {", ".join(p.name for p in found.values()) or "no split"}, '
      'where train and one of val, validation and test were wanted, each with '
      'a folder a class'
    )
  classes: tuple[str, ...] = ()
  splits, notes = {}, []
  for split, folder in found.items():  # train first
    listing = _Listing(root, folder)
    classes = classes or listing.classes
    _check_classes(folder, listing, classes, split == 'train')
    missing = [name for name in classes if not listing.files.get(name)]
    if missing:
      notes.append(
        f'{folder} has no images of {len(missing)} of the {len(classes)} '
        f'classes, of {missing[0]} for one.'
      )
    if listing.strays:
      notes.append(
        f'{len(listing.strays)} files in {folder} are no images in a class '
        f'and were left out, {listing.strays[0]} for one.'
      )
    splits[split] = FolderSource(str(folder), listing.items(classes))
  return Folder(classes, splits, tuple(notes))


def shard_splits(found: Folder) -> list[shards.Split]:
  """The splits as `shards.write` takes them."""
  return [
    shards.Split(name, source.items, FolderReader(source.folder))
    for name, source in found.splits.items()
  ]


class _Listing:
  """The files of a split by class, and what is no image."""

  def __init__(self, root: epath.Path, folder: epath.Path) -> None:
    self._real_root = os.path.realpath(root)
    self.files: dict[str, list[str]] = {}
    self.strays: list[str] = []
    self._refuse_leaving(folder)
    for entry in sorted(folder.iterdir()):
      self._refuse_leaving(entry)
      if entry.name.startswith('.') or not entry.is_dir():
        self.strays.append(entry.name)
        continue
      self.files[entry.name] = []
      for file in sorted(entry.iterdir()):
        self._refuse_leaving(file)
        image = file.suffix.lower() in EXTENSIONS
        if image and not file.name.startswith('.'):  # as macOS makes them
          self.files[entry.name].append(file.name)
        else:
          self.strays.append(f'{entry.name}/{file.name}')

  @property
  def classes(self) -> tuple[str, ...]:
    """The names of the folders that hold the classes, sorted."""
    return tuple(sorted(self.files))

  def items(self, classes: tuple[str, ...]) -> np.ndarray:
    """All images, labelled by the place of their class."""
    rows = [
      (os.fsencode(f'{name}/{file}'), label, 0, 0)
      for label, name in enumerate(classes)
      for file in self.files.get(name, ())
    ]
    return shards.table(rows)

  def _refuse_leaving(self, path: epath.Path) -> None:
    if not os.path.islink(path):
      return
    real = os.path.realpath(path)
    if os.path.commonpath([real, self._real_root]) != self._real_root:
      raise ValueError(
        f'{path} is a link to {real}, outside the folder of images: copy the '
        'file there, or remove the link'
      )


def _check_classes(
  folder: epath.Path,
  listing: _Listing,
  classes: tuple[str, ...],
  is_train: bool,
) -> None:
  """Every class must have images to learn from."""
  if not any(listing.files.values()):
    raise ValueError(
      f'{folder} has no images: they are looked for in a folder a class, as '
      f'{folder / "CLASS"}, and end in {", ".join(EXTENSIONS)}'
    )
  empty = [name for name in classes if not listing.files.get(name)]
  if is_train and empty:
    raise ValueError(
      f'{folder / empty[0]} has no images: remove the class or add some'
    )
  unknown = sorted({k for k, v in listing.files.items() if v} - {*classes})
  if unknown:
    raise ValueError(
      f'{folder / unknown[0]} is a class that train has not: remove it, or add '
      'images to train on'
    )


def _contents(path: epath.Path) -> bytes:
  with path.open('rb') as file:
    content = file.read(images.MAX_BYTES + 1)
  images.check_bytes(len(content), str(path))
  return content
