"""Writes images in classes as TFDS's array_record shards, in parallel.

A shard is the unit: a process of its own makes each, always with the same
bytes, and it appears under its name only when it is whole. `shards.json`
beside the shards holds a checksum of each, so that the same command goes on
after a kill, keeps the shards that are right and makes the others anew.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from etils import epath

from str_jax.data import parallel
from str_jax.data.places import is_remote

IMAGES_PER_SHARD = 1250  # of ImageNet: 1,025 shards of about 140 MB
LOG = 'shards.json'

_SHUFFLE_SEED = 2012
_CHUNK = 1 << 20


class Reader(Protocol):
  """Gives the encoded images of items, one after the other; picklable."""

  def __call__(self, items: np.ndarray) -> Iterator[bytes]: ...


@dataclasses.dataclass(frozen=True)
class Split:
  """The images of a split, and how to read them.

  Attributes:
    name: TFDS's name of it.
    items: as `table` makes them.
    reader: of the items.
  """

  name: str
  items: np.ndarray
  reader: Reader


@dataclasses.dataclass(frozen=True)
class Task:
  """A shard to make.

  Attributes:
    path: of the shard.
    items: its records, in order.
    reader: of the items.
    known: what `shards.json` says of it, if anything.
  """

  path: str
  items: np.ndarray
  reader: Reader
  known: dict[str, Any] | None


def table(rows: list[tuple[bytes, int, int, int]]) -> np.ndarray:
  """Items as one array: millions of them stay small.

  Args:
    rows: (name, label, offset, size) each; what offset and size mean is the
      reader's affair.

  Returns:
    A structured array [n] with the fields name, label, offset and size.
  """
  width = max((len(name) for name, *_ in rows), default=1)
  fields = (f'S{max(width, 1)}', np.int32, np.int64, np.int64)
  names = ('name', 'label', 'offset', 'size')
  return np.array(rows, list(zip(names, fields)))


def write(
  name: str,
  splits: list[Split],
  folder: epath.Path,
  shards: int | None,
  processes: int,
) -> dict[str, list[dict[str, Any]]]:
  """Writes the shards of a set; keeps those that are there and right.

  Args:
    name: the set's, which begins the shards' names.
    splits: what to write.
    folder: where to; made where it is missing. On a disk, or gs:// and such.
    shards: of the first split; the others get as many for their size. None:
      one for `IMAGES_PER_SHARD` images.
    processes: how many shards are made at a time.

  Returns:
    By split, for every shard its `images`, `bytes` and `sha256`.

  Raises:
    ValueError: an image that cannot be used, or a folder with shards of
      something else.
    OSError: a file that cannot be read or written.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise OSError(
      f'the folder {folder} cannot be made ({error.strerror}): name another'
    ) from error
  with _claimed(folder):
    names = _names(name, splits, shards)
    log = _Log(folder / LOG, _fingerprint(names, splits))
    tasks = [
      Task(str(folder / file), part, split.reader, log.shards.get(file))
      for split in splits
      for file, part in zip(
        names[split.name], _parts(split.items, len(names[split.name]))
      )
    ]
    anew = 0
    total = sum(len(split.items) for split in splits)
    with parallel.progress(name, total) as advance:
      for task, (found, was_there) in parallel.run(make, tasks, processes):
        anew += task.known is not None and not was_there
        log.add(epath.Path(task.path).name, found)
        advance(len(task.items))
  if anew:
    print(f'{anew} damaged or missing shards were made anew')
  return {k: [log.shards[file] for file in v] for k, v in names.items()}


def make(task: Task) -> tuple[dict[str, Any], bool]:
  """Makes a shard unless it is there and right.

  Args:
    task: the shard.

  Returns:
    Its `images`, `bytes` and `sha256`; and whether it was there and right.

  Raises:
    ValueError: an image that cannot be used.
    OSError: a file that cannot be read or written.
  """
  path = epath.Path(task.path)
  images = len(task.items)
  if task.known and path.exists() and _sum(path, images) == task.known:
    return task.known, True
  if is_remote(path):
    with tempfile.TemporaryDirectory() as scratch:
      part = epath.Path(scratch) / path.name
      found = _write(part, task)
      part.copy(path, overwrite=True)  # an object appears when it is whole
    return found, False
  part = path.with_name(f'{path.name}.{os.getpid()}.part')
  try:
    found = _write(part, task)
    _replace(part, path)
  finally:
    part.unlink(missing_ok=True)
  return found, False


def _write(path: epath.Path, task: Task) -> dict[str, Any]:
  """Writes the records of a shard to a file on this disk."""
  from array_record.python import array_record_module
  from tensorflow_datasets.proto import tf_example_pb2

  try:
    # A record a group: the random access of TFDS and Grain wants it.
    writer = array_record_module.ArrayRecordWriter(str(path), 'group_size:1')
    for item, image in zip(task.items, task.reader(task.items)):
      # A new one each time: a message never gives memory back.
      example = tf_example_pb2.Example()
      fields = example.features.feature
      fields['image'].bytes_list.value.append(image)
      fields['label'].int64_list.value.append(int(item['label']))
      fields['file_name'].bytes_list.value.append(item['name'])
      writer.write(example.SerializeToString(deterministic=True))
    writer.close()
    reader = array_record_module.ArrayRecordReader(str(path))
    images = reader.num_records()
    reader.close()
  except RuntimeError as error:  # of the record library: a full disk, say
    raise OSError(
      f'{task.path} could not be written ({error}): make room or name another '
      'folder, and run the command again to go on'
    ) from error
  if images != len(task.items):
    raise OSError(
      f'{task.path} has {images} records where {len(task.items)} were written: '
      'is the disk sound?'
    )
  return _sum(path, images)


def _sum(path: epath.Path, images: int) -> dict[str, Any]:
  """What `shards.json` says of a shard."""
  digest = hashlib.sha256()
  size = 0
  with path.open('rb') as file:
    while chunk := file.read(_CHUNK):
      digest.update(chunk)
      size += len(chunk)
  return {'images': images, 'bytes': size, 'sha256': digest.hexdigest()}


def _replace(part: epath.Path, path: epath.Path) -> None:
  """Gives a whole file its name, also should the power fail."""
  file = os.open(part, os.O_RDONLY)
  try:
    os.fsync(file)
  finally:
    os.close(file)
  part.replace(path)


def _parts(items: np.ndarray, shards: int) -> list[np.ndarray]:
  """The items of every shard: the same shuffle whatever their order was."""
  items = items[np.argsort(items['name'], kind='stable')]
  order = np.random.default_rng(_SHUFFLE_SEED).permutation(len(items))
  return [items[part] for part in np.array_split(order, shards)]


def _names(
  name: str, splits: list[Split], shards: int | None
) -> dict[str, list[str]]:
  """By split, TFDS's names for its shards."""
  names = {}
  for split in splits:
    images = len(split.items)
    count = -(-images // IMAGES_PER_SHARD)
    if shards is not None:
      count = min(-(-images * shards // len(splits[0].items)), images)
    stem = f'{name}-{split.name}.array_record'
    names[split.name] = [f'{stem}-{i:05d}-of-{count:05d}' for i in range(count)]
  return names


def _fingerprint(names: dict[str, list[str]], splits: list[Split]) -> str:
  """Tells whether shards were made from the same items."""
  digest = hashlib.sha256(json.dumps(names).encode())
  for split in splits:
    items = np.sort(split.items, order='name')
    digest.update(str(items.dtype).encode() + items.tobytes())
  return digest.hexdigest()


class _Log:
  """`shards.json`: a checksum a shard, and what they were made from."""

  def __init__(self, path: epath.Path, source: str) -> None:
    self._path = path
    self._source = source
    self.shards: dict[str, dict[str, Any]] = {}
    if not path.exists():
      return
    try:
      content = json.loads(path.read_text())
      known, self.shards = content['source'], dict(content['shards'])
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(
        f'{path} is damaged ({error!r}): delete {path.parent} and run the '
        'command again'
      ) from error
    if known != source:
      raise ValueError(
        f'{path.parent} holds shards of other images or another --shards: '
        'delete it, or name another --out'
      )

  def add(self, name: str, shard: dict[str, Any]) -> None:
    """Writes the file anew, whole."""
    if self.shards.get(name) == shard:
      return
    self.shards[name] = shard
    content = {
      'source': self._source,
      'shards': dict(sorted(self.shards.items())),
    }
    text = json.dumps(content, indent=1)
    if is_remote(self._path):
      self._path.write_text(text)
      return
    part = self._path.with_name(f'{LOG}.part')
    part.write_text(text)
    _replace(part, self._path)


@contextlib.contextmanager
def _claimed(folder: epath.Path) -> Iterator[None]:
  """Keeps a second command out; deletes what a killed one left half."""
  if is_remote(folder):
    yield
    return
  handle = os.open(folder, os.O_RDONLY)
  try:
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    os.close(handle)
    raise OSError(
      f'another command is writing to {folder}: wait for it to end'
    ) from error
  try:
    for part in folder.glob('*.part'):
      part.unlink(missing_ok=True)
    yield
  finally:
    os.close(handle)
