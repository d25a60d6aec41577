"""A whole NNX model whose weights are thresholded before they are used."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx, traverse_util

from str_jax import variables
from str_jax.methods import Method
from str_jax.nnx import thresholds
from str_jax.nnx.layers import SparseLayer
from str_jax.nnx.thresholds import KeyPath, Threshold
from str_jax.paths import (
  COLLECTION,
  Where,
  is_kernel,
  is_linen,
  named_leaves,
)


class Sparse(nnx.Module):
  """A model, called as it is, with its weights read through a method.

  The model itself stays as it is: a call changes of it what it changes without
  the wrapper (running means, counts of random numbers), and never a weight
  that has a threshold.

  Args:
    model: the model, of whatever layers, with no threshold yet.
    method: the sparsity method; None leaves the model dense.
    where: which parameters are weights to sparsify, from path and array; or
      patterns of paths, see `str_jax.paths.matching`.

  Attributes:
    module: the model, with its raw weights.
    method: as given.
    thresholds: the method's leaves by path of their weight in the model: one,
      a pair (learned, computed) where the method has both, or ().

  Raises:
    ValueError: ``where`` matches nothing, or what is no array of floats; or
      the model is none, or has thresholds already.

  STR (ICML 2020), section 3; ST-3 (WACV 2023).

  >>> import jax.numpy as jnp, str_jax
  >>> from flax import nnx
  >>> rngs = nnx.Rngs(0)
  >>> net = nnx.Sequential(nnx.Linear(3, 4, rngs=rngs), nnx.relu)
  >>> model = Sparse(net, str_jax.methods.create('str', init_value=-5.0))
  >>> list(model.thresholds), model(jnp.ones((2, 3))).shape
  (['layers/0/kernel'], (2, 4))
  """

  def __init__(
    self,
    model: nnx.Module,
    method: Method | None,
    where: Where = is_kernel,
  ) -> None:
    _check_is_dense(model)
    self.module = model
    self.method = method
    found: dict[str, Any] = {}
    if method is not None:
      thresholds.check(method)
      tree = weights(model)
      chosen = variables.add_thresholds(method, tree, where)[COLLECTION]
      for path, w in named_leaves(tree).items():
        if (key := '/'.join(path)) in chosen:
          leaves = thresholds.initial(method, w)
          found[key] = leaves[0] if len(leaves) == 1 else leaves
    self.thresholds = nnx.data(found)

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    if self.method is None:
      return self.module(*args, **kwargs)
    view = self.open_(thresholds.effective)
    modules = dict(nnx.iter_modules(view))
    before = {path: dict(vars(module)) for path, module in modules.items()}
    out = view(*args, **kwargs)
    # What the call has set on a module of the view is for the model's own.
    for path, module in list(nnx.iter_modules(self.module)):
      for name, value in vars(modules[path]).items():
        changed = before[path].get(name) is not value
        if changed and not name.startswith('_pytree__'):
          setattr(module, name, value)
    return out

  def open_(self, read: thresholds.Read, path: KeyPath = ()) -> nnx.Module:
    """The model, its variables shared, with other weights put in.

    Args:
      read: gives the weight to put in.
      path: of this wrapper.

    Returns:
      A new module of the model's class.
    """
    if self.method is None:
      return self.module
    graphdef, state = nnx.split(self.module)
    flat = []
    for at, leaf in nnx.to_flat_state(state):
      key = '/'.join(map(str, at))
      if key in self.thresholds:
        leaf = read((*path, *at), self.method, leaf, self.leaves(key))
      flat.append((at, leaf))
    return nnx.merge(graphdef, nnx.from_flat_state(flat))

  def leaves(self, path: str) -> tuple[Threshold, ...]:
    """The thresholds of a weight: the learned one, the computed one."""
    found = self.thresholds[path]
    return found if isinstance(found, tuple) else (found,)


def weights(model: nnx.Module) -> dict[str, Any]:
  """The parameters of a model as a nested dict of arrays, names for keys."""
  flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
  return traverse_util.unflatten_dict(
    {tuple(map(str, path)): leaf.get_value() for path, leaf in flat}
  )


def opened(model: nnx.Module, read: thresholds.Read) -> nnx.Module:
  """The dense model inside, its variables shared, with other weights put in.

  Args:
    model: a model with layers of str_jax.nnx, or wrappers, or neither.
    read: gives the weight to put in.

  Returns:
    A new module without thresholds.

  Raises:
    ValueError: the model is none, or thresholds are not of the shape that the
      method gives them.
  """
  _check_is_module(model)

  def checked(
    path: KeyPath,
    method: Method,
    weight: nnx.Variable,
    leaves: tuple[Threshold, ...],
  ) -> nnx.Variable:
    _check_shapes(path, method, weight, leaves)
    return read(path, method, weight, leaves)

  def visit(path: KeyPath, node: Any) -> Any:
    if isinstance(node, Sparse):
      return node.open_(checked, path)
    if isinstance(node, SparseLayer):
      node.open_(checked, path)
    return node

  return nnx.recursive_map(visit, model)


def _check_is_module(model: Any) -> None:
  if not isinstance(model, nnx.Module):
    raise ValueError(
      'str_jax.nnx takes a model of Flax NNX, an nnx.Module, but got a '
      f'{type(model).__name__}: for Linen there is str_jax.nn, for other '
      'pytrees of weights str_jax.add_thresholds.'
    )


def _check_is_dense(model: Any) -> None:
  _check_is_module(model)
  for path, node in nnx.iter_modules(model):
    ours = node if isinstance(node, (Sparse, SparseLayer)) else None
    if ours is not None and ours.method is not None:
      raise ValueError(
        f'Sparse takes a dense model, but {"/".join(map(str, path)) or "it"} '
        'has thresholds already: build its layers without a method, or do '
        'not wrap it.'
      )
  if is_linen(weights(model)):
    raise ValueError(
      'Sparse takes the parameters of a model for those of a Linen model '
      'where a part of it is called params: call that attribute otherwise.'
    )


def _check_shapes(
  path: KeyPath,
  method: Method,
  weight: nnx.Variable,
  leaves: tuple[Threshold, ...],
) -> None:
  """Refuses layers that nnx.vmap stacked, which would be taken for one."""
  # Shapes alone: a threshold a weight would be as large as the weights.
  initial = jax.eval_shape(
    lambda w: (method.init_learned(w), method.init_computed(w)),
    weight.get_value(),
  )
  wanted = [one for one in initial if one is not None]
  for leaf, one in zip(leaves, wanted, strict=True):
    if leaf.shape != one.shape:
      raise ValueError(
        f'the weight {"/".join(map(str, path))} of shape {weight.shape} should '
        f'have thresholds of shape {one.shape}, but has {leaf.shape}: where '
        'nnx.vmap stacks layers, build them without a method, and wrap the '
        'model in str_jax.nnx.Sparse.'
      )
