"""How weights are named: paths of any pytree, and the layout's own names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

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
