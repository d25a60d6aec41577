"""Sets that TFDS has prepared on disk as array_record: found without its code.

Only the files are read: a name that is not there costs no import of
TensorFlow, no internet and no list of all the names that TFDS knows.
"""

import os
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core import read_only_builder

DOWNLOADED = ('cifar10', 'cifar100')  # by `python -m str_jax prepare`


def data_folder(data_dir: str | os.PathLike[str] | None) -> Path:
  """The argument, else the variable TFDS_DATA_DIR, else TFDS's default."""
  folder = data_dir or os.environ.get('TFDS_DATA_DIR')
  return Path(folder or '~/tensorflow_datasets').expanduser()


def find(name: str, folder: Path) -> tfds.core.DatasetBuilder | None:
  """The prepared set NAME, NAME/CONFIG or NAME:VERSION, or None."""
  try:
    return read_only_builder.builder_from_files(name, data_dir=folder)
  except ValueError:  # no such set, or not a name at all
    return None


def open_set(name: str, folder: Path) -> tfds.core.DatasetBuilder:
  """The prepared set.

  Raises:
    FileNotFoundError: if it is not there, or not there as array_record.
  """
  builder = find(name, folder)
  if builder is None and name in DOWNLOADED:
    raise FileNotFoundError(
      f'{name} is not in {folder}: get it with '
      f'`python -m str_jax prepare {name} --data_dir={folder}`'
    )
  if builder is None:
    raise FileNotFoundError(
      f'{name} is neither digits nor fake, and no TFDS set of that name is in '
      f'{folder}: prepare it there with TFDS, file_format="array_record" '
      f'(cifar10 and cifar100: `python -m str_jax prepare cifar10`)'
    )
  file_format = builder.info.file_format.value
  if file_format != 'array_record':
    raise FileNotFoundError(
      f'{name} in {builder.data_dir} is prepared as {file_format}, which has '
      'no random access: prepare it with file_format="array_record"'
    )
  return builder


def source(builder: tfds.core.DatasetBuilder, split: str) -> Any:
  """The split's records, images still encoded."""
  skip = {'image': tfds.decode.SkipDecoding()}
  return builder.as_data_source(split=split, decoders=skip)
