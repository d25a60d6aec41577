"""Whether a checkpoint is whole: its format, its checksum."""

from __future__ import annotations

import contextlib
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

import str_jax
from str_jax.paths import named_leaves
from str_jax.training import records

FORMAT = 1  # of checkpoints; one without a number is of the first


class Damaged(ValueError):
  """A checkpoint cannot be read."""


class NewerFormat(ValueError):
  """A checkpoint may well be whole, but is for a newer str_jax."""


def describe(state: Any, accuracy: float) -> dict[str, Any]:
  """What is saved beside a state.

  Args:
    state: the state.
    accuracy: on validation.

  Returns:
    The checkpoint's metrics.
  """
  return {
    'accuracy': accuracy,
    'checksum': _checksum(state),
    'format': FORMAT,
  }


def read_metrics(folder: pathlib.Path) -> dict[str, Any]:
  """Accuracy and checksum of a checkpoint.

  Args:
    folder: the checkpoint.

  Returns:
    Its metrics.

  Raises:
    Damaged: they cannot be read.
    NewerFormat: its format came after this version.
  """
  with reading(folder):
    metrics = records.read_json(folder / 'metrics' / 'metrics')
    number = metrics.get('format', 1)
    newer = number > FORMAT
    known = {name: metrics.get(name) for name in ('accuracy', 'checksum')}
    if not newer and None in known.values():
      raise ValueError('its accuracy or checksum is missing')
  if newer:
    raise NewerFormat(
      f'the checkpoint {folder} has format {number}, but str_jax '
      f'{str_jax.__version__} reads formats up to {FORMAT}: upgrade str_jax.'
    )
  return known


@contextlib.contextmanager
def reading(folder: pathlib.Path) -> Iterator[None]:
  """Turns whatever the storage raises on damage into Damaged.

  Args:
    folder: the checkpoint that is read.
  """
  try:
    yield
  except (MemoryError, jax.errors.JaxRuntimeError):  # not the checkpoint's
    raise
  except Exception as error:
    reason = (str(error).splitlines() or [''])[0][:200]
    raise Damaged(
      f'the checkpoint {folder} cannot be read ({type(error).__name__}: '
      f'{reason}).'
    ) from error


def verify(state: Any, metrics: dict[str, Any]) -> None:
  """Checks that a state is the one that was saved.

  Args:
    state: what was read.
    metrics: of the checkpoint that it was read from.

  Raises:
    ValueError: an array is another than when it was saved.
  """
  if _checksum(state) != metrics['checksum']:
    raise ValueError('its arrays are not the ones that were saved')


def _checksum(state: Any) -> int:
  """Of all arrays in the order of their names, which any layout keeps."""
  checksum = 0
  for path, leaf in sorted(named_leaves(jax.device_get(state)).items()):
    checksum = zlib.crc32('/'.join(path).encode(), checksum)
    checksum = zlib.crc32(np.asarray(leaf).tobytes(), checksum)
  return checksum
