"""TensorBoard's events of a run."""

from __future__ import annotations

import contextlib
import functools
import json
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from str_jax.layout import sparse_weights
from str_jax.methods import Method
from str_jax.paths import kernels
from str_jax.training import records

_BINS = 64
_FINAL = ('top1', 'sparsity', 'flops')  # beside the hyper-parameters


class Board:
  """Events for TensorBoard.

  Written at once: tensorboardX's own writer has a thread that dies when the
  disk is full, and whoever hands it more then waits for ever. They are an
  extra: where they cannot be written, the run goes on without.

  Args:
    directory: where they lie; made if missing.
    first_step: from here on, what earlier starts wrote is not shown.
  """

  def __init__(self, directory: pathlib.Path, first_step: int) -> None:
    with records.writing(directory):
      directory.mkdir(exist_ok=True)
      self._file = EventsWriter(str(directory / 'events'))
    start = SessionLog(status=SessionLog.START)
    self._add(step=first_step, file_version='brain.Event:2')
    self._add(step=first_step, session_log=start)

  def scalars(self, values: Mapping[str, float], step: int) -> None:
    """Writes numbers by their tags."""
    for name, value in values.items():
      self._add(step=step, summary=summary.scalar(name, value))

  def histograms(self, arrays: Mapping[str, np.ndarray], step: int) -> None:
    """Writes how the numbers of arrays are distributed, by their tags."""
    for name, array in arrays.items():
      values = array[np.isfinite(array)]
      if not values.size:
        continue
      low, high = float(values.min()), float(values.max())
      # NumPy would draw a single value, a layer's threshold, 1 wide.
      room = max(abs(low) * 1e-3, 1e-12)
      bins = _BINS if low < high else [low - room, high + room]
      self._add(step=step, summary=summary.histogram(name, values, bins))

  def finish(
    self, config: ConfigDict, results: Mapping[str, Any], step: int
  ) -> None:
    """Writes the row of the table of hyper-parameters.

    Args:
      config: the run's.
      results: the content of summary.json.
      step: the last one.
    """
    final = {name: results[name] for name in _FINAL}
    final = {k: v for k, v in final.items() if v is not None}
    self.scalars(final, step)
    fields = list(_fields(config))
    # TensorBoard takes the columns from one run: all fields, set or not.
    columns = {name: kind() for name, kind, _ in fields}
    experiment, _, _ = summary.hparams(columns, final)
    given = {name: value for name, _, value in fields}
    _, start, end = summary.hparams(given, final)
    for part in (experiment, start, end):
      self._add(step=step, summary=part)

  def flush(self) -> None:
    """Hands what was written to the system."""
    with contextlib.suppress(OSError):
      self._file.flush()

  def close(self) -> None:
    """Closes the file."""
    with contextlib.suppress(OSError):
      self._file.close()

  def _add(self, **content: Any) -> None:
    with contextlib.suppress(OSError, ValueError):  # ValueError: it is closed
      self._file.write_event(Event(wall_time=time.time(), **content))


def distributions(
  method: Method | None, variables: Any
) -> dict[str, np.ndarray]:
  """The raw weights and the thresholds of every layer, for histograms.

  Args:
    method: the method the thresholds belong to.
    variables: Linen collections, as this process can read them whole.

  Returns:
    Flat arrays by the tags ``weights/<layer>`` and ``thresholds/<layer>``; a
    dense layer has no thresholds.
  """
  arrays = {f'weights/{k}': w for k, w in kernels(variables['params']).items()}
  for path, threshold in _thresholds(method, variables).items():
    arrays[f'thresholds/{path}'] = threshold
  return {k: np.asarray(x).reshape(-1) for k, x in arrays.items()}


@functools.partial(jax.jit, static_argnums=0)
def _thresholds(method: Method | None, variables: Any) -> dict[str, jax.Array]:
  return {
    '/'.join(path[:-1]): method.threshold(entry.weight, *entry.leaves)
    for path, entry in sparse_weights(method, variables).items()
    if method is not None
  }


def _fields(
  config: ConfigDict, prefix: str = ''
) -> Iterator[tuple[str, type, Any]]:
  """Names, types and values of a config's fields, as hyper-parameters."""
  for name, value in config.items():
    if isinstance(value, ConfigDict):
      yield from _fields(value, f'{prefix}{name}.')
      continue
    kind = config.get_type(name)
    if kind not in (bool, int, float, str):
      kind, value = str, None if value is None else json.dumps(value)
    yield prefix + name, kind, value
