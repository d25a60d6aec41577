"""Sets that TFDS has prepared on disk as array_record: found without its code.

Only the files are read: a name that is not there costs no import of
TensorFlow, no internet and no list of all the names that TFDS knows.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core import dataset_info, read_only_builder, splits

from str_jax.data.places import is_remote, place

DOWNLOADED = ('cifar10', 'cifar100')  # by `python -m str_jax prepare`


def data_folder(data_dir: str | os.PathLike[str] | None) -> epath.Path:
  """The argument, else the variable TFDS_DATA_DIR, else TFDS's default."""
  folder = data_dir or os.environ.get('TFDS_DATA_DIR')
  return place(folder or '~/tensorflow_datasets')


def find(name: str, folder: epath.Path) -> tfds.core.DatasetBuilder | None:
  """The prepared set NAME, NAME/CONFIG or NAME:VERSION, or None."""
  try:
    return read_only_builder.builder_from_files(name, data_dir=folder)
  except ValueError:  # no such set, or not a name at all
    return None


def open_set(name: str, folder: epath.Path) -> tfds.core.DatasetBuilder:
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
  if builder is None and name == 'imagenet2012':
    raise FileNotFoundError(
      f'{name} is not in {folder}: make it from the tars of image-net.org with '
      f'`python -m str_jax prepare imagenet --tars=DIR --out={folder}`'
    )
  if builder is None:
    raise FileNotFoundError(
      f'{name} is neither digits nor fake, and no TFDS set of that name is in '
      f'{folder}: prepare it there with TFDS, file_format="array_record" '
      f'(or by `python -m str_jax prepare`, which makes cifar10, cifar100, '
      'imagenet and a set from a folder of images)'
    )
  file_format = builder.info.file_format.value
  if file_format != 'array_record':
    raise FileNotFoundError(
      f'{name} in {builder.data_dir} is prepared as {file_format}, which has '
      'no random access: prepare it with file_format="array_record"'
    )
  return builder


def source(builder: tfds.core.DatasetBuilder, split: str) -> Any:
  """The split's records, images still encoded.

  Raises:
    ValueError: if the records lie where their library does not read.
  """
  folder = epath.Path(builder.data_dir)
  if is_remote(folder) and not str(folder).startswith('gs://'):
    raise ValueError(
      f'{folder} cannot be read: array_record files are read from a disk or '
      'gs:// alone; copy the set, or train on the folder of images itself '
      '(configs/imagefolder.py)'
    )
  skip = {'image': tfds.decode.SkipDecoding()}
  return builder.as_data_source(split=split, decoders=skip)


def describe(
  folder: epath.Path,
  *,
  name: str,
  version: str,
  description: str,
  classes: Sequence[str],
  encoding: str | None,
  shards: Mapping[str, Sequence[Mapping[str, Any]]],
) -> None:
  """Writes the files by which TFDS knows a set whose shards are there.

  Args:
    folder: of the shards.
    name: the set's.
    version: its version, as '1.0.0'.
    description: a sentence.
    classes: the names, by label.
    encoding: 'jpeg', or None where images are JPEG or PNG.
    shards: by split, what `shards.write` returned.
  """
  features = tfds.features.FeaturesDict(
    {
      'image': tfds.features.Image(encoding_format=encoding),
      'label': tfds.features.ClassLabel(names=list(classes)),
      'file_name': tfds.features.Text(),
    }
  )
  info = tfds.core.DatasetInfo(
    builder=dataset_info.DatasetIdentity(
      name=name,
      version=tfds.core.Version(version),
      data_dir=str(folder),
      module_name='str_jax',
    ),
    description=description,
    features=features,
    supervised_keys=('image', 'label'),
  )
  info.set_file_format('array_record')
  infos = [
    splits.SplitInfo(
      name=split,
      shard_lengths=[shard['images'] for shard in parts],
      num_bytes=sum(shard['bytes'] for shard in parts),
    )
    for split, parts in shards.items()
  ]
  info.set_splits(splits.SplitDict(infos))
  # TFDS finds a set by features.json: it comes last, to a set that is whole.
  info.write_dataset_info_json(folder)
  info.write_to_directory(folder)
