"""A matrix of a cell in C: its constants, and the statement of its product."""

from __future__ import annotations

import dataclasses
import textwrap
from typing import Any

import numpy as np

__all__ = ['PREFIX', 'Matrix', 'c_type', 'constant', 'number', 'rounded']

PREFIX = 'fastgrnn_'  # of every name in the header


@dataclasses.dataclass(frozen=True)
class Matrix:
  """A matrix m and its product in the header, y += m x.

  Attributes:
    name: of its constants.
    weights: (outputs, inputs), as they are stored: float32, or int8.
    x: what it is multiplied with, in C.
    y: what it is added to, in C.
    index: type of the number of a column.
    scale: of int8: scale * factors * weights is what is meant.
    factors: of int8, one a row, uint8.
  """

  name: str
  weights: np.ndarray
  x: str
  y: str
  index: np.dtype
  scale: np.float32 | None = None
  factors: np.ndarray | None = None

  @property
  def sparse(self) -> bool:
    """Whether it is smaller as its non-zero weights and their places."""
    each = self.weights.itemsize + self.index.itemsize
    left = int(np.count_nonzero(self.weights))
    size = left * each + 2 * len(self.weights)
    return 0 < left and size < self.weights.nbytes  # C has no empty arrays

  @property
  def multiply_adds(self) -> int:
    """Of one product."""
    weights = self.weights
    return int(np.count_nonzero(weights)) if self.sparse else weights.size

  @property
  def function(self) -> str:
    """The name of its function's file, without the suffix."""
    sparse = 'sparse_' if self.sparse else ''
    return f'add_{sparse}{self.weights.dtype.name}'

  def arrays(self) -> dict[str, np.ndarray]:
    """Its constants by their names, flat, in the order of the arguments."""
    alive = self.weights != 0
    parts = {'': self.weights[alive] if self.sparse else self.weights.ravel()}
    if self.factors is not None:
      parts['_factors'] = self.factors
    if self.sparse:
      parts['_counts'] = alive.sum(1).astype(np.uint16)
      parts['_indices'] = alive.nonzero()[1].astype(self.index)
    return {self.name + suffix: array for suffix, array in parts.items()}

  def call(self) -> str:
    """The statement that adds the product."""
    rows, columns = map(str, self.weights.shape)
    arguments = [PREFIX + name for name in self.arrays()]
    if self.factors is not None:
      arguments.insert(1, number(self.scale))
      arguments += [rows, columns, self.x, 's->q', self.y]
    else:
      arguments += [rows, *([] if self.sparse else [columns]), self.x, self.y]
    function = PREFIX + ('add_sparse' if self.sparse else 'add')
    return _wrapped(f'{function}({", ".join(arguments)});', '  ', '      ')


def rounded(matrix: Matrix) -> Matrix:
  r"""The matrix with weights of int8.

  .. math:: m_{ij} \approx s f_i q_{ij}, \qquad |q_{ij}| \le 127

  A row's scale is a whole multiple of the matrix's: a byte in place of a float.

  Args:
    matrix: with weights of float32.

  Returns:
    The matrix, with a scale and factors.

  >>> row = np.array([[2.0, -1.0, 0.0]], np.float32)
  >>> rounded(Matrix('u', row, 'x', 'y', np.dtype('u1'))).weights.tolist()
  [[127, -64, 0]]
  """
  largest = np.abs(matrix.weights).max(1).astype(np.float64)
  scale = largest.max() / (127 * 255) or 1.0
  factors = np.clip(np.ceil(largest / (127 * scale) - 1e-6), 1, 255)
  whole = np.rint(matrix.weights / (scale * factors[:, np.newaxis]))
  return dataclasses.replace(
    matrix,
    weights=np.clip(whole, -127, 127).astype(np.int8),
    scale=np.float32(scale),
    factors=factors.astype(np.uint8),
  )


def constant(name: str, array: np.ndarray) -> str:
  """An array as a constant in C.

  >>> print(constant('b', np.array([0.1, 2.0], np.float32)))
  static const float fastgrnn_b[2] = {
    0.100000001f, 2.0f};
  """
  numbers = _wrapped(', '.join(map(number, array)), '  ', '  ')
  kind = c_type(array.dtype)
  return f'static const {kind} {PREFIX}{name}[{array.size}] = {{\n{numbers}}};'


def c_type(dtype: np.dtype) -> str:
  """The name of a type in C.

  >>> c_type(np.dtype('float32')), c_type(np.dtype('int8'))
  ('float', 'int8_t')
  """
  return 'float' if dtype == np.float32 else f'{dtype.name}_t'


def number(value: Any) -> str:
  """A number in C: with nine digits a float32 is read back as it was.

  >>> number(np.float32(1 / 3)), number(np.int8(-3))
  ('0.333333343f', '-3')
  """
  if not isinstance(value, np.floating):
    return str(value)
  text = f'{value:.9g}'
  return f'{text}f' if '.' in text or 'e' in text else f'{text}.0f'


def _wrapped(text: str, first: str, rest: str) -> str:
  return textwrap.fill(text, 79, initial_indent=first, subsequent_indent=rest)
