"""A FastGRNN as one C header: its weights, its step, its classifier.

The C is in the folder ``c`` beside this file: the frame ``cell.h``, and a
function a file for the products, of which a header gets those that it calls.
"""

from __future__ import annotations

import importlib.resources
import pathlib
import string
import textwrap
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from str_jax import compaction
from str_jax.interop.c_matrix import (
  PREFIX,
  Matrix,
  c_type,
  constant,
  number,
  rounded,
)
from str_jax.models import FastGRNN
from str_jax.paths import THRESHOLD, named_leaves
from str_jax.variables import effective_params

__all__ = ['VALUES', 'render', 'write']

VALUES = ('float32', 'int8')
_INT = 32_767  # the largest that every C99 compiler has
_LOW = 's->low'  # between the two factors of a matrix


def write(
  path: pathlib.Path, model: Any, variables: Any, values: str = 'float32'
) -> str:
  """Writes :func:`render` to a file.

  Args:
    path: of the header, in a folder that there is.
    model: a FastGRNN, as for :func:`render`.
    variables: its Linen collections.
    values: 'float32' or 'int8'.

  Returns:
    A sentence: bytes of constants and of memory, multiply-adds a step.

  Raises:
    FileNotFoundError: the folder is not there.
    ValueError: as for :func:`render`.
  """
  text, sizes = _build(model, variables, values)
  if not path.parent.is_dir():
    raise FileNotFoundError(
      f'{path} cannot be written: the folder {path.parent} is not there; make '
      'it, or name a file in another.'
    )
  path.write_text(text, encoding='utf-8')
  return sizes


def render(model: Any, variables: Any, values: str = 'float32') -> str:
  r"""The C header of a trained FastGRNN.

  .. math::
     z = \sigma(W x + U h + b_z), \qquad c = \tanh(W x + U h + b_h), \qquad
     h' = (\zeta (1 - z) + \nu) \odot c + z \odot h

  A gated cell is compacted first. float32 prints every weight so that C reads
  the same number, and computes in float32. int8 rounds the weights of every
  matrix, and its input anew at each product, to whole numbers of -127 to 127:

  .. math:: (W x)_i \approx s f_i s_x \sum_j w_{ij}\, q_j

  with s one float a matrix, f_i one byte a row, s_x = max abs(x) / 127; the
  state, biases and gates stay float32. A matrix with zeros enough is stored by
  its other weights, where that is smaller.

  Args:
    model: a FastGRNN, full, low-rank or gated, with the method of the
      variables.
    variables: its Linen collections.
    values: 'float32' or 'int8'.

  Returns:
    The header's text, C99 and C++.

  Raises:
    ValueError: another model, other values; thresholds without their method;
      variables of another FastGRNN; weights that are not finite; no rank left
      in W; a size over 32,767.

  FastGRNN (NeurIPS 2018); STR (ICML 2020), section 4.2.

  >>> import jax, jax.numpy as jnp, str_jax
  >>> model = str_jax.models.create('fastgrnn', num_classes=2, hidden=4)
  >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 5, 3, 1)))
  >>> text = render(model, variables)
  >>> [line for line in text.splitlines() if '#define FASTGRNN_I' in line]
  ['#define FASTGRNN_INPUTS 3']
  """
  return _build(model, variables, values)[0]


def _build(model: Any, variables: Any, values: str) -> tuple[str, str]:
  """The header's text, and a sentence of its sizes."""
  model, params = _checked(model, variables, values)
  matrices = [
    matrix if values == 'float32' else rounded(matrix)
    for matrix in _matrices(params)
  ]
  inputs = matrices[0].weights.shape[1]
  sizes = {
    'inputs': inputs,
    'hidden': model.hidden,
    'classes': model.num_classes,
  }
  _check_sizes(sizes)
  vectors = {name: params['cell'][name] for name in ('b_z', 'b_h')}
  vectors |= {k: v for k, v in params['classifier'].items() if k == 'bias'}
  arrays = {name: array.ravel() for name, array in vectors.items()}
  for matrix in matrices:
    arrays |= matrix.arrays()
  scratch, memory = _memory(matrices, model.hidden)
  *products, classifier = matrices
  sentence = (
    f'{sum(array.nbytes for array in arrays.values()):,} bytes of constants, '
    f'{memory:,} bytes of memory, '
    f'{sum(m.multiply_adds for m in products):,} multiply-adds a step and '
    f'{classifier.multiply_adds:,} for the classifier.'
  )
  ranks = ' and '.join(
    f'{name} {"full" if rank is None else f"of rank {rank}"}'
    for name, rank in (('W', model.w_rank), ('U', model.u_rank))
  )
  text = string.Template(_c('cell')).substitute(
    sizes,
    title=f'FastGRNN with {values} weights, {ranks}.',
    shapes=', '.join(f'{size} {name}' for name, size in sizes.items()),
    sentence=textwrap.fill(sentence, 76).replace('\n', '\n   '),
    zeta=_sigmoid(params['cell']['zeta']),
    nu=_sigmoid(params['cell']['nu']),
    constants='\n\n'.join(constant(*item) for item in arrays.items()),
    scratch=scratch,
    functions='\n'.join(_functions(matrices)).rstrip(),
    products='\n'.join(_statement(matrix) for matrix in products),
    bias=f'{PREFIX}bias[i]' if 'bias' in arrays else '0.0f',
    classifier=classifier.call(),
  )
  return text, sentence


def _checked(
  model: Any, variables: Any, values: str
) -> tuple[FastGRNN, dict[str, Any]]:
  """The model without gates, and its effective parameters as NumPy arrays."""
  if not isinstance(model, FastGRNN):
    raise ValueError(
      'a C header is written of a FastGRNN alone (str_jax.models), got a '
      f'{type(model).__name__}: export it to another format.'
    )
  if values not in VALUES:
    raise ValueError(
      f'values of a C header are {" or ".join(VALUES)}, got {values!r}.'
    )
  if model.method is None and any(
    path[-1] == THRESHOLD for path in named_leaves(variables)
  ):
    raise ValueError(
      'the variables hold thresholds, but the model has no method: make it '
      'with the one they belong to, or pass str_jax.freeze(method, variables).'
    )
  if model.gated:
    model, variables = compaction.compact(model, variables)
  params = jax.tree.map(
    lambda leaf: np.asarray(leaf, np.float32),
    effective_params(model.method, variables),
  )
  leaves = named_leaves(params)
  for path, leaf in leaves.items():
    if not np.isfinite(leaf).all():
      raise ValueError(
        f'{"/".join(path)} holds numbers that are not finite: the training '
        'diverged; export a checkpoint of before that.'
      )
  first = [leaf for path, leaf in leaves.items() if path[:2] == ('cell', 'W')]
  if model.w_rank == 0 and not first:
    raise ValueError(
      'no rank is left in W, so the cell does not see its inputs: train with '
      'less weight decay, and export that.'
    )
  x = jnp.zeros((1, 1, len(first[0]) if first else 1, 1))
  init = model.clone(method=None).init
  wanted = jax.eval_shape(init, jax.random.key(0), x)['params']
  shapes = lambda leaves: {path: leaf.shape for path, leaf in leaves.items()}
  if shapes(leaves) != shapes(named_leaves(wanted)):
    raise ValueError(
      'the variables are not those of this FastGRNN: their names or shapes '
      'differ; make the model with the sizes that it was trained with.'
    )
  return model, params


def _check_sizes(sizes: dict[str, int]) -> None:
  for name, size in sizes.items():
    if size > _INT:
      raise ValueError(
        f'a C header is for up to {_INT:,} {name}, got {size:,}: they would '
        'overflow the int of a small machine.'
      )


def _matrices(params: Any) -> list[Matrix]:
  """The matrices in the order of their products, the classifier's at last."""
  rows: list[tuple[str, np.ndarray, str, str]] = []
  for name, x in (('w', 'x'), ('u', 's->h')):
    matrix = params['cell'].get(name.upper(), {})
    if 'down' in matrix:
      rows.append((f'{name}_down', matrix['down']['kernel'].T, x, _LOW))
      rows.append((f'{name}_up', matrix['up']['kernel'].T, _LOW, 's->both'))
    elif matrix:
      rows.append((name, matrix['kernel'].T, x, 's->both'))
  classifier = params['classifier']['kernel'].T
  rows.append(('classifier', classifier, 's->h', 'logits'))
  widest = max(weights.shape[1] for _, weights, _, _ in rows)
  return [Matrix(*row, np.min_scalar_type(widest - 1)) for row in rows]


def _memory(matrices: list[Matrix], hidden: int) -> tuple[str, int]:
  """The scratch in the state's struct beside h and both; bytes of it all."""
  low = max((len(m.weights) for m in matrices if m.y == _LOW), default=0)
  scratch = f'\n  float low[{low}]; /* between two factors */' if low else ''
  floats = 2 * hidden + low
  if matrices[0].factors is None:
    return scratch, 4 * floats
  widest = max(matrix.weights.shape[1] for matrix in matrices)
  scratch += f'\n  int8_t q[{widest}]; /* an x, rounded */'
  return scratch, 4 * (floats + -(-widest // 4))  # padded to whole floats


def _statement(matrix: Matrix) -> str:
  """The product; its sum is set to zero before, if that is its own."""
  if matrix.y != _LOW:
    return matrix.call()
  clear = f'for (int i = 0; i < {len(matrix.weights)}; i++) {_LOW}[i] = 0.0f;'
  return f'  {clear}\n{matrix.call()}'


def _functions(matrices: list[Matrix]) -> list[str]:
  """The C functions that the products call, and the type that they need."""
  names = sorted({matrix.function for matrix in matrices})
  if matrices[0].factors is not None:
    names.insert(0, 'round_int8')
  functions = [_c(name) for name in names]
  if any(matrix.sparse for matrix in matrices):
    kind = c_type(matrices[0].index)
    functions.insert(0, f'typedef {kind} {PREFIX}index; /* of a column */\n')
  return functions


def _sigmoid(value: np.ndarray) -> str:
  return number(np.float32(jax.nn.sigmoid(value.item())))


def _c(name: str) -> str:
  folder = importlib.resources.files('str_jax.interop') / 'c'
  return (folder / f'{name}.h').read_text(encoding='utf-8')
