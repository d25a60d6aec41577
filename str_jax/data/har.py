"""HAR-2: the smartphone activities of the UCI archive in two classes."""

import statistics
import warnings
from pathlib import Path

import numpy as np

FOLDER = 'UCI HAR Dataset'
STEPS = 128
SIGNALS = tuple(
  f'{signal}_{axis}'
  for signal in ('body_acc', 'body_gyro', 'total_acc')
  for axis in 'xyz'
)
# The archive's numbers: 1 walking, 2 walking upstairs, 3 walking downstairs,
# 4 sitting, 5 standing, 6 laying. Sitting, laying and walking upstairs are one
# class, as in STR (ICML 2020), the others the other.
_CLASS_OF = np.array([-1, 1, 0, 1, 0, 1, 0])
_URL = (
  'https://archive.ics.uci.edu/dataset/240/'
  'human+activity+recognition+using+smartphones'
)


def read(data_dir: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
  """Reads a split as the archive's zip unpacks.

  Args:
    data_dir: the folder that holds `UCI HAR Dataset`.
    split: 'train' or 'test'.

  Returns:
    (signals, labels): float32 [n, 128, 1, 9], at 50 Hz, acceleration in units
    of g and angular velocity in radians a second, in the order of `SIGNALS`;
    int32 [n], 0 or 1.

  Raises:
    FileNotFoundError: if a file is missing.
    ValueError: if a file is not what it should be.
  """
  folder = data_dir / FOLDER / split
  y = folder / f'y_{split}.txt'
  inertial = folder / 'Inertial Signals'
  tables = {y: _table(y, 1)}
  for name in SIGNALS:
    path = inertial / f'{name}_{split}.txt'
    tables[path] = _table(path, STEPS)
  lines = statistics.mode(map(len, tables.values()))
  for path, table in tables.items():
    if len(table) != lines:
      raise _wrong(
        path, f'it has {len(table)} lines, where most files have {lines}'
      )
  activities = tables.pop(y)[:, 0]
  if not np.isin(activities, range(1, 7)).all():
    raise _wrong(y, 'it has numbers other than 1 to 6')
  labels = _CLASS_OF[activities.astype(int)].astype(np.int32)
  return np.stack([*tables.values()], axis=-1)[:, :, np.newaxis], labels


def _table(path: Path, columns: int) -> np.ndarray:
  if not path.is_file():
    raise FileNotFoundError(
      f'{path} is missing: download the data set from {_URL} and unpack it, '
      f'so that the folder {FOLDER} lies in data_dir (or TFDS_DATA_DIR)'
    )
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore', UserWarning)  # of a file with no numbers
      table = np.loadtxt(path, np.float32, ndmin=2)
  except ValueError as error:
    raise _wrong(path, str(error)) from error
  if not table.size:
    raise _wrong(path, 'it has no numbers')
  if table.shape[1] != columns:
    raise _wrong(
      path, f'its lines have {table.shape[1]} numbers, where {columns} belong'
    )
  if not np.isfinite(table).all():
    raise _wrong(path, 'not all of its numbers are finite')
  return table


def _wrong(path: Path, reason: str) -> ValueError:
  return ValueError(
    f'{path} is not as in the data set ({reason}): download it again from '
    f'{_URL}'
  )
