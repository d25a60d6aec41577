"""Sets of sequences, in the place of images: (steps, 1, features), float32."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from str_jax.data import har, speech
from str_jax.data.dataset import Dataset
from str_jax.data.sources import Arrays, Source
from str_jax.data.splits import hold_out

_SAMPLE = 2_000  # examples that mean and standard deviation are taken from


def load(
  name: str,
  folder: Path,
  image_size: int | None,
  validation: int | None,
  augment: str | None,
) -> Dataset:
  """Loads a set by name, with the arguments of `str_jax.data.load`.

  Raises:
    FileNotFoundError: if the set is not in the folder.
    ValueError: if it is damaged, or an argument does not fit it.
  """
  for argument, value in (('image_size', image_size), ('augment', augment)):
    if value not in (None, 'none'):
      raise ValueError(
        f'{name} holds sequences, not images: leave {argument} unset, but it '
        f'is {value!r}'
      )
  return LOADERS[name](folder, validation)


def har2(folder: Path, validation: int | None) -> Dataset:
  """HAR-2: 128 steps of 9 signals, two classes; 7,352 and 2,947 examples."""
  train, test = (
    Arrays(*har.read(folder, split)) for split in ('train', 'test')
  )
  splits = hold_out(train, validation or 0, test)
  return _dataset('har2', 2, (har.STEPS, 1, len(har.SIGNALS)), splits)


def google12(folder: Path, validation: int | None) -> Dataset:
  """TFDS's speech_commands as 99 steps of 32 log-mel features, 12 classes.

  Ten words, silence, and all other words as one class. The paper's set is cut
  from version 0.01 of the recordings, 22,246 to train on and 3,081 to test
  on. TFDS's is version 0.02: 85,511, of which far more than a twelfth are
  other words, 10,102 for validation and 4,890 for test.
  """
  home = _newest(folder)
  train, ready, test = (
    speech.Commands(home, split) for split in ('train', 'validation', 'test')
  )
  if validation is None:
    splits: dict[str, Source | None] = {
      'train': train,
      'validation': ready,
      'test': test,
    }
  else:
    splits = hold_out(train, validation, test)
  shape = (speech.STEPS, 1, speech.FEATURES)
  return _dataset('google12', speech.classes(home), shape, splits)


LOADERS: dict[str, Callable[[Path, int | None], Dataset]] = {
  'har2': har2,
  'google12': google12,
}


def _newest(folder: Path) -> Path:
  """The folder of the newest version of speech_commands."""
  found = sorted((folder / 'speech_commands').glob('*/dataset_info.json'))
  how = (
    'prepare it there with TFDS (on a machine with TensorFlow and pydub), '
    'file_format="array_record"'
  )
  if not found:
    raise FileNotFoundError(
      f'google12 is made from speech_commands, which is not in {folder}: {how}'
    )
  form = speech.entry(found[-1], 'fileFormat')
  if form != 'array_record':
    raise FileNotFoundError(
      f'google12 is made from speech_commands, but {found[-1].parent} holds it '
      f'as {form}, which has no random access: {how}'
    )
  return found[-1].parent


def _dataset(
  name: str,
  num_classes: int,
  shape: tuple[int, int, int],
  splits: dict[str, Source | None],
) -> Dataset:
  mean, std = _statistics(splits['train'])
  return Dataset(
    name=name,
    num_classes=num_classes,
    image_shape=shape,
    mean=mean,
    std=std,
    splits=splits,
    train_transforms=(),
    eval_transforms=(),
  )


def _statistics(
  train: Source | None,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Mean and standard deviation of each feature.

  Of the training examples, or of 2,000 of them that are drawn once for all:
  speech features are computed as they are read.
  """
  assert train is not None
  order = np.random.default_rng(0).permutation(len(train))[:_SAMPLE]
  examples = np.stack([train[int(i)]['image'] for i in order])
  mean = examples.mean((0, 1, 2), np.float64)
  std = examples.std((0, 1, 2), np.float64)
  return tuple(map(float, mean)), tuple(map(float, np.maximum(std, 1e-6)))
