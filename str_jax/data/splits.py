"""Which records of a set are for training, for validation and for the test."""

import numpy as np

from str_jax.data.sources import Source, Subset

_SPLITS = ('train', 'validation', 'test')


def own_splits(
  sources: dict[str, Source], test: str, validation: int | None
) -> dict[str, Source | None]:
  """A set's own validation split, unless it is the test's or others wanted."""
  train = sources['train']
  if validation is None and test != 'validation' and 'validation' in sources:
    return {split: sources[split] for split in _SPLITS}
  return hold_out(train, validation or 0, sources[test])


def hold_out(
  train: Source, validation: int, test: Source
) -> dict[str, Source | None]:
  """Splits `validation` images off, whatever the order they are stored in."""
  check_validation(validation, len(train))
  if validation == 0:
    return {'train': train, 'validation': None, 'test': test}
  order = np.random.default_rng(0).permutation(len(train))
  return {
    'train': Subset(train, order[:-validation]),
    'validation': Subset(train, order[-validation:]),
    'test': test,
  }


def check_validation(validation: int, images: int) -> None:
  """Refuses to hold out more images than there are."""
  if not 0 <= validation < images:
    raise ValueError(
      f'validation={validation} images cannot be held out of {images}: give '
      f'a number from 0 to {images - 1}'
    )
