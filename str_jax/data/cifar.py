"""CIFAR-10 and CIFAR-100: from the authors' archive to TFDS's array_record.

What is written has the features, names, ids and pixels (as PNG) of TFDS's own
version 3.0.2, and needs no TensorFlow.
"""

import dataclasses
import pickle
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds


@dataclasses.dataclass(frozen=True)
class Archive:
  """Where a set comes from, and what is in its archive.

  Attributes:
    name: TFDS's name of the set.
    url: the archive of its "python version".
    md5: the archive's checksum.
    folder: the archive's only folder.
    train: the files of the training split, in order.
    test: the files of the test split.
    meta: the file with the class names.
    labels: for every label, (TFDS's feature, the key of the numbers in a
      file, the key of the names in `meta`).
  """

  name: str
  url: str
  md5: str
  folder: str
  train: tuple[str, ...]
  test: tuple[str, ...]
  meta: str
  labels: tuple[tuple[str, bytes, bytes], ...]


CIFAR10 = Archive(
  name='cifar10',
  url='https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz',
  md5='c58f30108f718f92721af3b95e74349a',
  folder='cifar-10-batches-py',
  train=tuple(f'data_batch_{i}' for i in range(1, 6)),
  test=('test_batch',),
  meta='batches.meta',
  labels=(('label', b'labels', b'label_names'),),
)
CIFAR100 = Archive(
  name='cifar100',
  url='https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz',
  md5='eb9058c3a382ffc7106e4002c42a8d85',
  folder='cifar-100-python',
  train=('train',),
  test=('test',),
  meta='meta',
  labels=(
    ('label', b'fine_labels', b'fine_label_names'),
    ('coarse_label', b'coarse_labels', b'coarse_label_names'),
  ),
)


def write(archive: Archive, path: Path, data_dir: Path) -> Path:
  """Writes the archive at `path` as a TFDS set; returns the set's folder.

  Raises:
    ValueError: if the file is not the archive it should be.
  """
  builder = _Cifar(
    archive=archive, contents=_read(archive, path), data_dir=data_dir
  )
  builder.download_and_prepare(download_dir=str(data_dir / 'downloads'))
  return Path(builder.data_dir)


class _Cifar(  # type: ignore[call-arg]
  tfds.core.GeneratorBasedBuilder, skip_registration=True
):
  """TFDS's builder, fed with the contents of the archive."""

  VERSION = tfds.core.Version('3.0.2')

  def __init__(
    self, *, archive: Archive, contents: dict[str, Any], data_dir: Path
  ) -> None:
    self.name = archive.name
    self._archive = archive
    self._contents = contents
    super().__init__(data_dir=data_dir, file_format='array_record')

  def _info(self) -> tfds.core.DatasetInfo:
    meta = self._contents[self._archive.meta]
    features = {
      'id': tfds.features.Text(),
      'image': tfds.features.Image(shape=(32, 32, 3), encoding_format='png'),
    }
    for feature, _, key in self._archive.labels:
      names = [name.decode() for name in meta[key]]
      features[feature] = tfds.features.ClassLabel(names=names)
    return tfds.core.DatasetInfo(
      builder=self,
      description=f'{self.name}: 32 x 32 colour images in classes.',
      features=tfds.features.FeaturesDict(features),
      supervised_keys=('image', 'label'),
      homepage='https://www.cs.toronto.edu/~kriz/cifar.html',
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Any]]:
    return {
      'train': self._generate_examples('train', self._archive.train),
      'test': self._generate_examples('test', self._archive.test),
    }

  def _generate_examples(
    self, split: str, files: tuple[str, ...]
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    index = 0  # TFDS's key too: it sets the order on disk
    for file in files:
      batch = self._contents[file]
      labels = {name: batch[key] for name, key, _ in self._archive.labels}
      for i, pixels in enumerate(batch[b'data']):
        yield (
          index,
          {
            'id': f'{split}_{index:05d}',
            'image': _png(pixels.reshape(3, 32, 32).transpose(1, 2, 0)),
            **{name: int(numbers[i]) for name, numbers in labels.items()},
          },
        )
        index += 1


def _png(image: np.ndarray) -> bytes:
  encoded = cv2.imencode('.png', cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
  return encoded.tobytes()


def _read(archive: Archive, path: Path) -> dict[str, Any]:
  """The archive's pickles by file name; nothing is unpacked to disk."""
  files = {*archive.train, *archive.test, archive.meta}
  contents = {}
  try:
    with tarfile.open(path, 'r:gz') as tar:
      for member in tar:
        folder, _, file = member.name.rpartition('/')
        stream = tar.extractfile(member)
        if folder == archive.folder and file in files and stream is not None:
          contents[file] = _Unpickler(stream, encoding='bytes').load()
  except (
    *(tarfile.TarError, EOFError, zlib.error),  # of the archive
    *(pickle.UnpicklingError, TypeError, ValueError),  # of a pickle in it
  ) as error:
    raise _wrong(archive, path, str(error)) from error
  for file in sorted(files):
    if file not in contents:
      raise _wrong(archive, path, f'it has no {archive.folder}/{file}')
    if not _complete(archive, file, contents[file]):
      raise _wrong(archive, path, f'{file} lacks images, labels or names')
  return contents


def _complete(archive: Archive, file: str, content: Any) -> bool:
  if not isinstance(content, dict):
    return False
  if file == archive.meta:
    return all(key in content for _, _, key in archive.labels)
  images = content.get(b'data')
  return (
    isinstance(images, np.ndarray)
    and images.dtype == np.uint8
    and images.shape[1:] == (3 * 32 * 32,)
    and all(
      len(content.get(k, ())) == len(images) for _, k, _ in archive.labels
    )
  )


def _wrong(archive: Archive, path: Path, reason: str) -> ValueError:
  return ValueError(
    f'{path} is not the archive of {archive.name} ({reason}): delete it and '
    'run the command again'
  )


class _Unpickler(pickle.Unpickler):
  """Reads numbers, strings, lists, dicts and NumPy arrays: runs no code."""

  _ALLOWED = {
    # Python 2's NumPy wrote the module's old name.
    ('numpy.core.multiarray', '_reconstruct'): np.empty(0).__reduce__()[0],
    ('numpy', 'ndarray'): np.ndarray,
    ('numpy', 'dtype'): np.dtype,
  }

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) not in self._ALLOWED:
      raise pickle.UnpicklingError(f'it asks for {module}.{name}')
    return self._ALLOWED[module, name]
