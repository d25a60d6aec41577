"""What is done with an NNX model that has thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from str_jax import report, variables
from str_jax.methods import Method
from str_jax.nnx import thresholds
from str_jax.nnx.layers import SparseLayer
from str_jax.nnx.model import Sparse, opened, weights
from str_jax.paths import COLLECTION


def effective_model(model: nnx.Module) -> nnx.Module:
  r"""The dense model that the forward pass is, with exact zeros.

  .. math:: q = \mathrm{method}(w, t)

  It is a view: all but the kernels that have thresholds are the variables of
  the model itself, so that other methods of a wrapped model than its call are
  used through it. Thresholds are read now; make a new view after a step.

  Args:
    model: a model with layers of `str_jax.nnx`, or wrapped by `Sparse`.

  Returns:
    A model without thresholds: of the class inside, for a wrapper.

  STR (ICML 2020), section 3; ST-3 (WACV 2023).

  >>> import jax.numpy as jnp, str_jax
  >>> from flax import nnx
  >>> method = str_jax.methods.create('str', init_value=0.0)
  >>> layer = str_jax.nnx.Linear(2, 1, rngs=nnx.Rngs(0), method=method)
  >>> layer.kernel[...] = jnp.array([[2.0], [-0.25]])
  >>> effective_model(layer).kernel[...].tolist()
  [[1.5], [-0.0]]
  """
  return opened(model, thresholds.effective)


def freeze(model: nnx.Module) -> nnx.Module:
  """A dense copy of the model, with the zeros written into its weights.

  The model stays as it is. To go on training with the zeros kept, put
  `str_jax.optim.keep_zeros` first and last in the chain.

  Args:
    model: as in :func:`effective_model`.

  Returns:
    A model without thresholds, whose variables are its own.

  ST-3 (WACV 2023), its released code: the end of pruning.

  >>> import str_jax
  >>> from flax import nnx
  >>> method = str_jax.methods.create('str', init_value=-5.0)
  >>> net = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
  >>> frozen = freeze(str_jax.nnx.Sparse(net, method))
  >>> type(frozen).__name__, frozen.bias is net.bias
  ('Linear', False)
  """

  def read(*found: Any) -> nnx.Variable:
    weight = thresholds.effective(*found)
    return weight.replace(variables.plain_zeros(weight.get_value()))

  return nnx.clone(opened(model, read))


def update_thresholds(model: nnx.Module, step: jax.Array | int) -> None:
  """Recomputes the computed thresholds at the end of a step, in place.

  A method with a target also centres its learned thresholds here. For methods
  that compute none it does nothing.

  Args:
    model: as in :func:`effective_model`.
    step: the number of optimizer updates made so far.

  Raises:
    ValueError: the model's layers have different methods; or it is neither
      wrapped nor has it layers of `str_jax.nnx`.

  >>> import jax.numpy as jnp, str_jax
  >>> from flax import nnx
  >>> method = str_jax.methods.create('st3', sparsity=0.5, end_step=1)
  >>> layer = str_jax.nnx.Linear(3, 1, rngs=nnx.Rngs(0), method=method)
  >>> layer.kernel[...] = jnp.array([[3.0], [-1.0], [2.0]])
  >>> update_thresholds(layer, 1)
  >>> layer.computed_threshold[...].tolist()
  [[2.0]]
  """
  method, layout, leaves = _found(model)
  ours = (Sparse, SparseLayer)
  if not any(isinstance(node, ours) for _, node in nnx.iter_modules(model)):
    raise ValueError(
      f'this {type(model).__name__} has no thresholds to update: pass what '
      'str_jax.nnx.Sparse gave, not the model inside of it, or a model of '
      'layers of str_jax.nnx.'
    )
  new = variables.update_thresholds(method, layout, step)[COLLECTION]
  for path, own in leaves.items():
    for leaf, value in zip(own, _as_tuple(new[path]), strict=True):
      leaf.set_value(value)


def to_variables(
  model: nnx.Module,
) -> tuple[Method | None, dict[str, Any]]:
  """The method and the variables, as the rest of str_jax takes them.

  Args:
    model: as in :func:`effective_model`.

  Returns:
    The method, None for a dense model, and its raw weights and thresholds,
    ``{'params': tree, 'thresholds': {path: leaf}}``. The paths are those of
    :func:`effective_model`.

  Raises:
    ValueError: the model's layers have different methods.

  >>> import str_jax
  >>> from flax import nnx
  >>> method = str_jax.methods.create('st3', target=0.5)
  >>> model = str_jax.nnx.Sparse(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), method)
  >>> update_thresholds(model, 1)
  >>> str_jax.report.tied_weights(*to_variables(model))
  1
  """
  method, layout, _ = _found(model)
  return method, layout


def sparsity_report(
  model: nnx.Module, flops: Mapping[str, int] | None = None
) -> report.Report:
  """Counts the exact zeros of every kernel as the forward pass sees it.

  Args:
    model: as in :func:`effective_model`, or a dense one.
    flops: dense multiply-adds by layer.

  Returns:
    A report, see `str_jax.report.sparsity_report`.

  Raises:
    ValueError: the model holds no kernel, or methods that differ.

  STR (ICML 2020), section 4: its sparsity.

  >>> import str_jax
  >>> from flax import nnx
  >>> method = str_jax.methods.create('st3', sparsity=0.5, end_step=1)
  >>> model = str_jax.nnx.Sparse(nnx.Linear(4, 5, rngs=nnx.Rngs(0)), method)
  >>> update_thresholds(model, 1)
  >>> sparsity_report(model).nonzero
  10
  """
  return report.sparsity_report(*to_variables(model), flops=flops)


def _found(
  model: nnx.Module,
) -> tuple[Method | None, dict[str, Any], dict[str, Any]]:
  """The method, the variables, and the leaves of each weight by its path."""
  own: dict[int, tuple[thresholds.Threshold, ...]] = {}
  methods = set()

  def note(
    path: thresholds.KeyPath,
    method: Method,
    weight: nnx.Variable,
    leaves: tuple[thresholds.Threshold, ...],
  ) -> nnx.Variable:
    methods.add(method)
    own[id(weight)] = leaves
    return weight

  dense = opened(model, note)
  if len(methods) > 1:
    raise ValueError(
      'a model should have one method, but the layers of this one have '
      f'{" and ".join(sorted(map(str, methods)))}.'
    )
  leaves = {
    '/'.join(map(str, path)): own[id(weight)]
    for path, weight in nnx.to_flat_state(nnx.state(dense, nnx.Param))
    if id(weight) in own
  }
  values = {
    path: tuple(leaf.get_value() for leaf in found)
    for path, found in leaves.items()
  }
  layout = {
    'params': weights(dense),
    COLLECTION: {p: v[0] if len(v) == 1 else v for p, v in values.items()},
  }
  return (*methods, None)[0], layout, leaves


def _as_tuple(leaf: Any) -> tuple[Any, ...]:
  return leaf if isinstance(leaf, tuple) else (leaf,)
