"""How weights are named: paths of any pytree, and the layout's own names."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

KERNEL = 'kernel'
THRESHOLD = 'kernel_threshold'
COLLECTION = 'thresholds'

Path = tuple[str, ...]
Where = Callable[[Path, Any], bool]


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
class Patterns:
  """A ``where`` made of patterns, see :func:`matching`."""

  include: tuple[str, ...]
  exclude: tuple[str, ...] = ()

  def __call__(self, path: Path, leaf: Any) -> bool:
    del leaf
    return _any_fits(self.include, path) and not _any_fits(self.exclude, path)

  def check(self, paths: Iterable[Path]) -> None:
    """Raises a ValueError for a pattern that fits none of the paths."""
    known = {'/'.join(path): path for path in paths}
    for pattern in (*self.include, *self.exclude):
      if any(_any_fits((pattern,), path) for path in known.values()):
        continue
      near = difflib.get_close_matches(pattern, known, cutoff=0.4)
      raise ValueError(
        f'the pattern {pattern!r} should match some of the '
        f'{len(known)} leaves, but it matches none'
        + (f'; near it are {", ".join(near)}.' if near else '.')
        + ' One * is for one level, ** for any number.'
      )


def matching(*patterns: str, exclude: Iterable[str] = ()) -> Patterns:
  """Picks weights by patterns of their paths: a ``where``.

  A pattern and a path, the leaf's own name included, are split at ``/`` and
  compared level by level, as :func:`fnmatch.fnmatchcase` does: ``*`` is any
  name, ``?`` any letter, ``[ab]`` one of those, upper and lower case differ.
  No wildcard goes over a ``/``, but a level ``**`` is any number of levels,
  none among them. The whole path has to fit: ``head`` is not ``head/kernel``,
  and ``head/**`` takes the bias too.

  Args:
    *patterns: a leaf is picked where one of them fits its path.
    exclude: patterns of leaves that are not picked all the same.

  Returns:
    What `str_jax.add_thresholds` and :func:`select` take as ``where``; they
    refuse a pattern that fits no path.

  Raises:
    ValueError: no pattern, an empty one, or patterns that are no strings.

  >>> where = matching('encoder/*/kernel', 'head/**', exclude=['**/bias'])
  >>> where(('encoder', 'query', 'kernel'), None)
  True
  >>> where(('encoder', 'mlp', 'up', 'kernel'), None)
  False
  >>> where(('head', 'bias'), None)
  False
  """
  if isinstance(exclude, str):  # a string is an iterable of strings too
    exclude = (exclude,)
  found = Patterns(patterns, tuple(exclude))
  if not patterns or not all(
    isinstance(p, str) and p for p in (*found.include, *found.exclude)
  ):
    raise ValueError(
      "matching wants patterns of paths, such as 'encoder/*/kernel', but got "
      f'{patterns!r} and exclude={found.exclude!r}.'
    )
  return found


def _any_fits(patterns: Iterable[str], path: Path) -> bool:
  return any(_fits(tuple(p.split('/')), path) for p in patterns)


def _fits(levels: tuple[str, ...], path: Path) -> bool:
  if not levels:
    return not path
  if levels[0] == '**':
    return _fits(levels[1:], path) or bool(path) and _fits(levels, path[1:])
  return (
    bool(path)
    and fnmatch.fnmatchcase(path[0], levels[0])
    and _fits(levels[1:], path[1:])
  )


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
    where: which leaves are weights to sparsify, from path and leaf.

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
