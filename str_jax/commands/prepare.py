"""Makes a data set ready: CIFAR, ImageNet from its tars, a folder of images."""

import argparse
import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from str_jax.data import cifar, folder, imagenet, known, prepared, shards
from str_jax.data.download import download
from str_jax.data.places import is_remote, place

_ARCHIVES = {a.name: a for a in (cifar.CIFAR10, cifar.CIFAR100)}
_NAME = re.compile('[a-z][a-z0-9_]*')
# `load` means something else by these.
_TAKEN = ('digits', 'fake', known.FOLDER, *known.SEQUENCES)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  kinds = parser.add_subparsers(dest='dataset', required=True)
  for name in _ARCHIVES:
    kind = kinds.add_parser(name, help='downloaded from its authors')
    kind.add_argument(
      '--data_dir',
      help='where TFDS sets lie (default: TFDS_DATA_DIR, else '
      '~/tensorflow_datasets)',
    )
    kind.add_argument('--url', help='a mirror of the archive')
    kind.add_argument('--md5', help="the archive's checksum, if not the usual")
    kind.set_defaults(prepare=_cifar)
  kind = kinds.add_parser('imagenet', help='ILSVRC2012, from its two tars')
  kind.add_argument(
    '--tars',
    required=True,
    help=f'the folder of {imagenet.TRAIN_TAR} and {imagenet.VALIDATION_TAR}',
  )
  _add_shard_arguments(kind)
  kind.set_defaults(prepare=_imagenet)
  kind = kinds.add_parser(
    'folder', help='images at train/CLASS and val/CLASS or test/CLASS'
  )
  kind.add_argument('--images', required=True, help='the folder of train')
  kind.add_argument('--name', help="the set's (default: the folder's)")
  _add_shard_arguments(kind)
  kind.set_defaults(prepare=_folder)


def _add_shard_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    '--out', required=True, help='the data_dir to write to, or gs://BUCKET/DIR'
  )
  parser.add_argument(
    '--shards',
    type=int,
    help='files of the training split (default: one for '
    f'{shards.IMAGES_PER_SHARD} images)',
  )
  parser.add_argument(
    '--processes',
    type=int,
    default=os.cpu_count(),
    help='shards made at a time (default: one a core)',
  )


def run(args: argparse.Namespace) -> None:
  """Prepares a set; what is there already and right is kept.

  Raises:
    OSError: if a file cannot be downloaded, read or written.
    ValueError: if an archive, a folder or an image is not what it should be.
  """
  with _interruptible():
    args.prepare(args)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
  try:
    yield
  except KeyboardInterrupt:
    print('stopped; the same command goes on from here.')
    raise SystemExit(130) from None


def _cifar(args: argparse.Namespace) -> None:
  archive = _ARCHIVES[args.dataset]
  data_dir = prepared.data_folder(args.data_dir)
  found = prepared.find(archive.name, data_dir)
  if found is not None:
    print(f'{archive.name} is already prepared in {found.data_dir}')
    return
  if is_remote(data_dir):
    raise ValueError(
      f'{archive.name} is prepared on a disk alone: name a folder of this '
      f'one by --data_dir, and copy what is made there to {data_dir}'
    )
  home = Path(data_dir)
  url = args.url or archive.url
  path = home / 'downloads' / Path(archive.url).name
  download(url, path, args.md5 or archive.md5)
  print(f'{archive.name} is prepared in {cifar.write(archive, path, home)}')


def _imagenet(args: argparse.Namespace) -> None:
  print('reading where the images lie in the tars', flush=True)
  splits = imagenet.splits(place(args.tars))
  for split in splits:
    if len(split.items) != imagenet.FULL[split.name]:
      print(
        f'note: {split.name} has {len(split.items)} images, the whole of '
        f'ILSVRC2012 {imagenet.FULL[split.name]}'
      )
  _write(
    args,
    imagenet.NAME,
    imagenet.VERSION,
    splits,
    imagenet.classes(),
    'ILSVRC2012: photographs in 1,000 classes.',
    encoding='jpeg',
  )


def _folder(args: argparse.Namespace) -> None:
  images = place(args.images)
  name = args.name or re.sub(r'\W+', '_', images.resolve().name.lower())
  if not _NAME.fullmatch(name) or name in _TAKEN:
    raise ValueError(
      f'{name!r} cannot be the name of the set: choose another by --name, of '
      f'small letters, digits and _, a letter first, and none of '
      f'{", ".join(_TAKEN)}'
    )
  found = folder.read(images)
  for note in found.notes:
    print(f'note: {note}')
  _write(
    args,
    name,
    '1.0.0',
    folder.shard_splits(found),
    found.classes,
    f'Images in {len(found.classes)} classes, from a folder.',
    encoding=None,
  )


def _write(
  args: argparse.Namespace,
  name: str,
  version: str,
  splits: list[shards.Split],
  classes: Sequence[str],
  description: str,
  encoding: str | None,
) -> None:
  """Makes the shards, then the files that TFDS knows a set by."""
  for option in ('shards', 'processes'):
    number = getattr(args, option)
    if number is not None and number < 1:
      raise ValueError(f'--{option} is at least 1, but is {number}')
  home = place(args.out) / name / version
  written = shards.write(name, splits, home, args.shards, args.processes)
  prepared.describe(
    home,
    name=name,
    version=version,
    description=description,
    classes=classes,
    encoding=encoding,
    shards=written,
  )
  counts = ', '.join(
    f'{sum(shard["images"] for shard in parts)} images of {split} in '
    f'{len(parts)} shard{"s" * (len(parts) > 1)}'
    for split, parts in written.items()
  )
  print(f'{name} is prepared in {home}: {counts}, checked')
