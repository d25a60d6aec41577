r"""A sparse network in a file as small as its weights that are not zero.

A kernel with zeros is stored as its places and its values, in the C order of
its shape. The places are a bit a weight, or the number of zeros before each
value in a byte or two, whichever is smallest; docs/export.md has the layout. In
a tree without a leaf of that name every array of two axes or more is one.
Everything else is stored as it is. A zero is a zero: -0.0 is read as 0.0.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from str_jax.interop import dense_file
from str_jax.interop.dense_file import Arrays, Metadata
from str_jax.paths import KERNEL

FORMAT = 'sparse'
MASKS = 'masks'
VALUES = ('float32', 'bfloat16', 'int8')
_PARAMS = 'params/'
_LARGEST = 127  # of int8, so that its values lie evenly around zero


def write(
  path: str | pathlib.Path,
  variables: Any,
  values: str = 'float32',
  metadata: Mapping[str, Any] | None = None,
) -> None:
  r"""Writes dense variables with exact zeros; undone by `read`.

  float32 is exact, bfloat16 rounds to its 8 bits, and int8 to

  .. math:: q = \mathrm{round}(w / s_o), \qquad s_o = \max_i |w_{io}| / 127

  with one scale an output channel: no weight changes by more than 0.4% of the
  largest in its channel. What was read, and is written again, gives the same
  bytes: 127 s / 127 is s for every s that is a float32 divided by 127.

  Args:
    path: the file, NAME.safetensors.
    variables: Linen collections with effective weights, as
      `str_jax.freeze` gives them, or any other pytree of arrays.
    values: type of the values of weights with zeros; other leaves stay as
      they are.
    metadata: what else is to stand there, as JSON can hold it.

  Raises:
    OSError: the file cannot be written.
    ValueError: another type of values; a kernel that is not finite, or has
      zeros and is not float32.

  >>> import tempfile
  >>> variables = {'params': {'fc': {'kernel': np.eye(3, dtype='f')}}}
  >>> with tempfile.TemporaryDirectory() as folder:
  ...   write(f'{folder}/sparse.safetensors', variables)
  ...   metadata, again = read(f'{folder}/sparse.safetensors')
  >>> metadata['values'], again['params']['fc']['kernel'].tolist()[0]
  ('float32', [1.0, 0.0, 0.0])
  """
  if values not in VALUES:
    raise ValueError(
      f'the values of a sparse file are one of {", ".join(VALUES)}; got '
      f'{values!r}.'
    )
  arrays: Arrays = {}
  shapes = {}
  flat = dense_file.flatten(variables)
  weights = _weights(flat)
  for name, leaf in flat.items():
    if name not in weights or np.all(leaf):
      arrays[name] = leaf
      continue
    if leaf.dtype != np.float32 or not np.isfinite(leaf).all():
      raise ValueError(
        f'{name} must be finite float32 numbers to be written sparse, but is '
        f'{leaf.dtype} or has some that are not: pass trained weights.'
      )
    shapes[name] = leaf.shape
    for part, array in _encode(leaf, values).items():
      arrays[f'{name}:{part}'] = array
  about = {
    **(metadata or {}),
    **dense_file.levels(variables),
    'values': values,
    'shapes': shapes,
  }
  dense_file.write_sealed(path, FORMAT, arrays, about)


def read(path: str | pathlib.Path) -> tuple[Metadata, Any]:
  """The metadata and the dense variables of a sparse file.

  Args:
    path: what `write` wrote, or `python -m str_jax export`.

  Returns:
    (metadata, variables): `str_jax.models.create(**metadata['model'])` is the
    model of an exported network; the variables are NumPy arrays, kernels in
    float32 whatever their values were stored in.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged, or of another format.
  """
  metadata, arrays = dense_file.read_sealed(path, FORMAT)
  shapes = metadata['shapes']
  for name, shape in shapes.items():
    parts = _take(arrays, name)
    try:
      arrays[name] = _decode(parts, shape)
    except (KeyError, IndexError, ValueError) as error:
      raise ValueError(
        f'{path} must hold places and values of {name} of shape {shape}, but '
        f'they do not fit: export it again.'
      ) from error
  return metadata, dense_file.unflatten(arrays, metadata)


def rounding(before: Any, after: Any) -> tuple[float, float]:
  r"""How far the kernels that were read are from those that were written.

  Args:
    before: variables that were written.
    after: the same, read.

  Returns:
    The largest change of a weight, as a share of the largest weight of its
    output channel, and the root mean square of the changes, as a share of
    that of all weights.

  >>> w = {'params': {'fc': {'kernel': np.float32([[2.0], [-4.0]])}}}
  >>> rounding(w, {'params': {'fc': {'kernel': np.float32([[2.0], [-3.0]])}}})
  (0.25, 0.22360679774997896)
  """
  largest, squares, total = 0.0, 0.0, 0.0
  theirs = dense_file.flatten(after)
  for name, w in _weights(dense_file.flatten(before)).items():
    error = np.abs(theirs[name] - w, dtype=np.float64)
    most = np.broadcast_to(_largest(w), w.shape)
    largest = max(largest, np.max(error[most > 0] / most[most > 0], initial=0))
    squares += np.sum(error**2)
    total += np.sum(w.astype(np.float64) ** 2)
  return float(largest), math.sqrt(squares / total) if squares else 0.0


def write_masks(
  path: str | pathlib.Path,
  variables: Any,
  metadata: Mapping[str, Any] | None = None,
) -> None:
  """Writes which weights are not zero, a bit each.

  Args:
    path: the file, NAME.safetensors.
    variables: as for `write`.
    metadata: what else is to stand there, as JSON can hold it.

  Raises:
    OSError: the file cannot be written.

  >>> import tempfile
  >>> variables = {'params': {'fc': {'kernel': np.eye(2, dtype='f')}}}
  >>> with tempfile.TemporaryDirectory() as folder:
  ...   write_masks(f'{folder}/masks.safetensors', variables)
  ...   read_masks(f'{folder}/masks.safetensors')[1]['fc'].tolist()
  [[True, False], [False, True]]
  """
  kernels = _weights(dense_file.flatten(variables))
  dense_file.write_sealed(
    path,
    MASKS,
    {f'{name}:mask': _mask(w.ravel()) for name, w in kernels.items()},
    {**(metadata or {}), 'shapes': {n: w.shape for n, w in kernels.items()}},
  )


def read_masks(
  path: str | pathlib.Path,
) -> tuple[Metadata, dict[str, np.ndarray]]:
  """The metadata and the masks of a file.

  Args:
    path: what `write_masks` wrote, or `python -m str_jax export`.

  Returns:
    (metadata, masks): True where a weight is not zero, by the layer's name in
    reports.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged, or of another format.
  """
  metadata, arrays = dense_file.read_sealed(path, MASKS)
  return metadata, {
    name.removeprefix(_PARAMS).removesuffix(f'/{KERNEL}'): _bits(
      arrays[f'{name}:mask'], math.prod(shape)
    ).reshape(shape)
    for name, shape in metadata['shapes'].items()
  }


def _weights(arrays: Arrays) -> Arrays:
  """The kernels; in a tree that has none, what may be one."""
  kernels = {
    name: leaf
    for name, leaf in arrays.items()
    if f'/{name}'.endswith(f'/{KERNEL}')
  }
  return kernels or {
    name: leaf
    for name, leaf in arrays.items()
    if leaf.ndim > 1 and leaf.dtype == np.float32 and np.isfinite(leaf).all()
  }


def _take(arrays: Arrays, name: str) -> Arrays:
  """The parts of a kernel, which are no longer among the arrays then."""
  names = [n for n in arrays if n.rpartition(':')[0] == name]
  return {n.rpartition(':')[2]: arrays.pop(n) for n in names}


def _encode(w: np.ndarray, values: str) -> Arrays:
  """The parts of a kernel: places, values and for int8 scales."""
  parts: Arrays = {}
  if values == 'int8':
    w, parts['scale'] = _to_int8(w)
  flat = w.astype(jnp.dtype(values)).ravel()
  at = np.flatnonzero(flat)
  parts['values'] = flat[at]
  places = (
    {'mask': _mask(flat)},
    {'gaps': _gaps(at, np.dtype(np.uint8))},
    {'gaps': _gaps(at, np.dtype(np.uint16))},
  )
  smallest = min(places, key=lambda part: sum(a.nbytes for a in part.values()))
  return parts | smallest


def _decode(parts: Arrays, shape: tuple[int, ...]) -> np.ndarray:
  """Undoes `_encode`."""
  flat = np.zeros(math.prod(shape), np.float32)
  at = (
    _places(parts['gaps'])
    if 'gaps' in parts
    else np.flatnonzero(_bits(parts['mask'], flat.size))
  )
  # A single value would be spread over all places.
  if len(at) != len(parts['values']):
    raise ValueError('as many places as values')
  flat[at] = parts['values'].astype(np.float32)
  w = flat.reshape(shape)
  return w * parts['scale'] if 'scale' in parts else w


def _mask(flat: np.ndarray) -> np.ndarray:
  return np.packbits(flat != 0, bitorder='little')


def _bits(mask: np.ndarray, size: int) -> np.ndarray:
  if mask.size != -(-size // 8):
    raise ValueError('a bit for every weight')
  return np.unpackbits(mask, count=size, bitorder='little').astype(bool)


def _gaps(at: np.ndarray, dtype: np.dtype) -> np.ndarray:
  """The zeros before each value; the type's largest number is that many zeros
  with no value after them."""
  full = np.iinfo(dtype).max
  skips, rest = np.divmod(np.diff(at, prepend=-1) - 1, full)
  gaps = np.full(at.size + skips.sum(), full, dtype)
  gaps[np.cumsum(skips + 1) - 1] = rest
  return gaps


def _places(gaps: np.ndarray) -> np.ndarray:
  """Undoes `_gaps`."""
  is_value = gaps < np.iinfo(gaps.dtype).max
  return np.cumsum(gaps.astype(np.int64) + is_value)[is_value] - 1


def _to_int8(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Whole numbers in [-127, 127], and a scale for each output channel."""
  largest = _largest(w)
  scale = largest / np.float32(_LARGEST)
  # Below that it has not a float32's 24 bits: such a channel is zero.
  scale = np.where(scale < 2 * np.finfo(np.float32).tiny, 0, scale)
  q = np.divide(w, scale, out=np.zeros_like(w), where=scale > 0)
  return np.rint(q), scale


def _largest(w: np.ndarray) -> np.ndarray:
  """The largest magnitude of each output channel."""
  inputs = tuple(range(w.ndim - 1)) or None
  return np.abs(w).max(axis=inputs, keepdims=True, initial=0)
