"""How weights are named: paths of any pytree, and the layout's own names."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from str_jax.path_patterns import Path, Patterns, matching

KERNEL = 'kernel'
THRESHOLD = 'kernel_threshold'
COLLECTION = 'thresholds'

Where = Callable[[Path, Any], bool] | str | Sequence[str]  # or patterns


def is_kernel(path: Path, leaf: Any) -> bool:
  """Whether a leaf is a weight to sparsify: its name is ``kernel``.

  Args:
    path: the names that lead to the leaf.
    leaf: the leaf, not looked at here.

  Returns:
    True for the weights of Flax's linear and convolutional layers.

  >>> is_kernel(('Dense_0', 'kernel'), None), is_kernel(('bias',), None)
  (True, False)
  """
  del leaf
  return bool(path) and path[-1] == KERNEL


def path_names(key_path: tuple[Any, ...]) -> Path:
  """A JAX key path as names; an NNX variable's own ``value`` is left out.

  Args:
    key_path: as ``jax.tree_util.tree_flatten_with_path`` gives it.

  Returns:
    One string a level.

  >>> import jax
  >>> tree = {'a': [0, {'kernel': 1}]}
  >>> [path_names(p) for p, _ in jax.tree_util.tree_leaves_with_path(tree)]
  [('a', '0'), ('a', '1', 'kernel')]
  """
  names = tuple(
    jax.tree_util.keystr((key,), simple=True, separator='/') for key in key_path
  )
  is_attribute = bool(key_path) and isinstance(
    key_path[-1], jax.tree_util.GetAttrKey
  )
  return names[:-1] if is_attribute and names[-1] == 'value' else names


def named_leaves(tree: Any) -> dict[Path, Any]:
  """The leaves of any pytree by their names, in the tree's order.

  Args:
    tree: any pytree.

  Returns:
    A dict from path to leaf.

  >>> named_leaves({'Dense_0': {'kernel': 1, 'bias': 2}})
  {('Dense_0', 'bias'): 2, ('Dense_0', 'kernel'): 1}
  """
  flat, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {path_names(path): leaf for path, leaf in flat}


def array_leaves(tree: Any) -> dict[Path, Any]:
  """The leaves of a pytree whose function is to be traced, by their names.

  Args:
    tree: of arrays, or of their shapes.

  Returns:
    As :func:`named_leaves`.

  Raises:
    ValueError: a leaf is no array.

  >>> list(array_leaves({'w': np.ones(2)}))
  [('w',)]
  """
  leaves = named_leaves(tree)
  for path, leaf in leaves.items():
    if not hasattr(leaf, 'dtype'):
      name = '/'.join(path) or 'the weight'
      raise ValueError(
        'weights should be arrays alone, for a function of them to be traced, '
        f'but {name} is a {type(leaf).__name__}: set what is no array apart, '
        'as equinox.partition does.'
      )
  return leaves


def layer_name(path: str) -> str:
  """The name that reports give the layer of a weight, from its path.

  Args:
    path: of the weight, '/' between levels.

  Returns:
    The path without the leaf's name, where that is ``kernel``.

  >>> layer_name('block/conv/kernel'), layer_name('layers/0')
  ('block/conv', 'layers/0')
  """
  layer, _, leaf = path.rpartition('/')
  return layer if leaf == KERNEL else path


def counted(leaves: Mapping[Path, Any], chosen: Iterable[Path]) -> set[Path]:
  """The weights that sparsity is a share of.

  Args:
    leaves: of the parameters, by path.
    chosen: paths of the weights that a method thresholds.

  Returns:
    The paths of those, of all kernels, and of every other array of floats with
    two axes or more that has the name of one of those (a number, as in a list,
    is no name): layers that were left out to stay dense.

  >>> leaves = {('a', 'w'): np.ones((2, 2)), ('head', 'w'): np.ones((2, 3))}
  >>> sorted(counted(leaves | {('b',): np.ones((2, 2))}, [('a', 'w')]))
  [('a', 'w'), ('head', 'w')]
  """
  picked = set(chosen)
  names = {path[-1] for path in picked if path and not path[-1].isdigit()}
  return {
    path
    for path, leaf in leaves.items()
    if path in picked
    or is_kernel(path, leaf)
    or (
      path
      and path[-1] in names
      and np.ndim(leaf) > 1
      and jnp.issubdtype(leaf.dtype, jnp.floating)
    )
  }


def kernels(params: Any) -> dict[str, Any]:
  """The weights of the layers, by the name that reports give a layer.

  Args:
    params: parameters, with threshold leaves or without.

  Returns:
    A dict from the path of the layer, '/' between levels, to its ``kernel``.

  >>> kernels({'block': {'conv': {'kernel': 1, 'bias': 2}}})
  {'block/conv': 1}
  """
  return {
    '/'.join(path[:-1]): leaf
    for path, leaf in named_leaves(params).items()
    if is_kernel(path, leaf)
  }


@dataclasses.dataclass(frozen=True)
class Row:
  """A leaf of a tree: whether it is selected, and its size.

  Attributes:
    path: its names.
    shape: None for what is no array.
    weights: how many numbers it holds.
    selected: whether it is a weight to sparsify.
  """

  path: Path
  shape: tuple[int, ...] | None
  weights: int
  selected: bool


@dataclasses.dataclass(frozen=True)
class Selection:
  """Which leaves of a tree are weights to sparsify; prints as a table.

  Attributes:
    rows: one a leaf, in the tree's order.
  """

  rows: tuple[Row, ...]

  @property
  def paths(self) -> tuple[Path, ...]:
    """The paths of the selected leaves."""
    return tuple(row.path for row in self.rows if row.selected)

  def __str__(self) -> str:
    picked = [row.weights for row in self.rows if row.selected]
    every = [row.weights for row in self.rows]
    cells = [
      (
        'yes' if row.selected else '-',
        '/'.join(row.path),
        'no array' if row.shape is None else str(row.shape),
        f'{row.weights:,}',
      )
      for row in self.rows
    ]
    cells.insert(0, ('selected', 'path', 'shape', 'weights'))
    total = f'{len(picked)} of {len(every)} leaves', ''
    cells.append(('total', *total, f'{sum(picked):,} of {sum(every):,}'))
    a, b, c, d = (max(map(len, column)) for column in zip(*cells))
    return '\n'.join(
      f'{s:{a}}  {p:{b}}  {x:{c}}  {n:>{d}}' for s, p, x, n in cells
    )


def select(variables: Any, where: Where = is_kernel) -> Selection:
  """What a ``where`` picks of a model's weights, to be looked at.

  Args:
    variables: variables of a Linen model, ``{'params': ..., ...}``, or any
      other pytree of weights; shapes alone will do.
    where: which leaves are weights to sparsify, from path and leaf; or
      patterns of paths, one or several, see :func:`matching`.

  Returns:
    The selection; ``print`` shows it as a table.

  Raises:
    ValueError: ``where`` is of patterns, one of which fits no path; or what it
      picks is no array of floats.

  >>> import jax.numpy as jnp
  >>> layer = {'kernel': jnp.ones((3, 4)), 'bias': jnp.zeros(4)}
  >>> print(select({'stem': layer, 'head': layer}, matching('head/kernel')))
  selected  path           shape    weights
  -         head/bias      (4,)           4
  yes       head/kernel    (3, 4)        12
  -         stem/bias      (4,)           4
  -         stem/kernel    (3, 4)        12
  total     1 of 4 leaves          12 of 32
  """
  leaves = named_leaves(
    variables['params'] if is_linen(variables) else variables
  )
  if not callable(where):
    where = matching(*([where] if isinstance(where, str) else where))
  if isinstance(where, Patterns):
    where.check(leaves)
  rows = []
  for path, leaf in leaves.items():
    shape = getattr(leaf, 'shape', None)
    weights = 0 if shape is None else math.prod(shape)
    selected = bool(where(path, leaf))
    if selected and not (weights and jnp.issubdtype(leaf.dtype, jnp.floating)):
      what = (
        f'a {type(leaf).__name__}'
        if shape is None
        else f'an array of {leaf.dtype} of shape {shape}'
      )
      raise ValueError(
        f'where= picks {"/".join(path)}, which should be an array of one '
        f'floating-point number or more, but is {what}: leave it out.'
      )
    rows.append(Row(path, shape, weights, selected))
  return Selection(tuple(rows))


def is_linen(tree: Any) -> bool:
  """Whether a tree is a Linen model's variables, not some other pytree.

  Args:
    tree: any pytree.

  Returns:
    Whether it is a mapping whose ``params`` is one too.

  >>> is_linen({'params': {'kernel': 1}}), is_linen({'kernel': 1})
  (True, False)
  """
  return isinstance(tree, Mapping) and isinstance(tree.get('params'), Mapping)
