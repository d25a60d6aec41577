"""Whether a checkpoint is whole: its format, its checksum."""

from __future__ import annotations

import contextlib
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

import str_jax
from str_jax.paths import named_leaves
from str_jax.training import records

FORMAT = 2  # of checkpoints; one without a number is of the first


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
    'checksum': _checksums[FORMAT](state),
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
    known['format'] = number
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
    reason = (str(error).splitlines() or [''])[0]
    reason = reason.split('. See full')[0][:200]
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
  if _checksums[metrics['format']](state) != metrics['checksum']:
    raise ValueError('its arrays are not the ones that were saved')


def _of_bytes(state: Any) -> int:
  """Of all arrays in the order of their names: of the first format."""
  checksum = 0
  for path, leaf in sorted(named_leaves(jax.device_get(state)).items()):
    checksum = zlib.crc32('/'.join(path).encode(), checksum)
    checksum = zlib.crc32(np.asarray(leaf).tobytes(), checksum)
  return checksum


def _of_elements(state: Any) -> int:
  """The same however the arrays are shared out over devices and processes.

  Of each array, the sum of bits(x_i) (2 i + 1) modulo 2^64: no process needs
  the elements of another one, and no change of one element leaves it as it is.
  """
  leaves = sorted(named_leaves(state).items())
  sums = np.array([_weighted_bits(leaf) for _, leaf in leaves], np.uint64)
  if jax.process_count() > 1:  # halves: JAX has no uint64
    parts = multihost_utils.process_allgather(sums.view(np.uint32))
    parts = np.ascontiguousarray(parts)
    sums = parts.view(np.uint64).sum(axis=0, dtype=np.uint64)
  checksum = 0
  for (path, _), value in zip(leaves, sums):
    checksum = zlib.crc32('/'.join(path).encode(), checksum)
    checksum = zlib.crc32(value.tobytes(), checksum)
  return checksum


def _weighted_bits(leaf: Any) -> np.uint64:
  """This process's part of the sum over an array's elements."""
  if not isinstance(leaf, jax.Array):
    leaf = np.asarray(leaf)
    pieces = [((slice(None),) * leaf.ndim, leaf)]
  else:  # of copies, the first one
    pieces = [
      (shard.index, np.asarray(shard.data))
      for shard in leaf.addressable_shards
      if shard.replica_id == 0
    ]
  total = np.uint64(0)
  for index, data in pieces:
    if not data.size:
      continue
    bits = np.ascontiguousarray(data).view(f'u{data.dtype.itemsize}')
    place = np.zeros((), np.uint64)
    for size, part in zip(leaf.shape, index):
      along = np.arange(*part.indices(size), dtype=np.uint64)
      place = place[..., np.newaxis] * np.uint64(size) + along
    weights = place * np.uint64(2) + np.uint64(1)
    total += (bits.reshape(data.shape) * weights).sum(dtype=np.uint64)
  return total


_checksums = {1: _of_bytes, 2: _of_elements}
