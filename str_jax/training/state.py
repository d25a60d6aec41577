"""The state of a run: everything that a checkpoint holds."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from str_jax import variables as layout
from str_jax.methods import Method
from str_jax.paths import named_leaves, path_names

Sums = dict[str, jax.Array]


@flax.struct.dataclass
class State:
  """Everything that the next step depends on.

  Attributes:
    step: number of updates made.
    variables: Linen collections: params, batch_stats, thresholds.
    opt_state: of the Optax chain.
    sums: what is to be averaged in the next log line.
    first_nonfinite: the first step with a loss, gradient or new variable that
      is not finite; -1 while there is none.
  """

  step: jax.Array
  variables: dict[str, Any]
  opt_state: optax.OptState
  sums: Sums
  first_nonfinite: jax.Array


def create(
  model: Any,
  tx: optax.GradientTransformation,
  image_shape: tuple[int, ...],
  seed: jax.Array | int,
) -> State:
  """The state before the first step.

  Args:
    model: a Linen module.
    tx: the optimizer.
    image_shape: (height, width, channels).
    seed: of the initial weights.

  Returns:
    A :class:`State`; jit it with out_shardings to place it.
  """
  images = jnp.zeros((1, *image_shape), jnp.float32)
  variables = model.init(jax.random.key(seed), images, train=False)
  return from_variables(variables, tx, step=0)


def from_variables(
  variables: dict[str, Any],
  tx: optax.GradientTransformation,
  step: jax.Array | int,
) -> State:
  """A state with a fresh optimizer around given variables.

  Args:
    variables: Linen collections.
    tx: the optimizer.
    step: number of updates made.

  Returns:
    A :class:`State`.
  """
  return State(
    step=jnp.asarray(step, jnp.int32),
    variables=variables,
    opt_state=with_count(tx.init(variables['params']), step),
    sums=zero_sums(),
    first_nonfinite=jnp.int32(-1),
  )


def with_count(opt_state: Any, step: jax.Array | int) -> Any:
  """The optimizer state with its schedules' counts at a step.

  Args:
    opt_state: of an Optax chain.
    step: number of updates made.

  Returns:
    The state with every leaf ``count`` of a schedule set.
  """
  is_schedule = lambda x: isinstance(x, optax.ScaleByScheduleState)
  return jax.tree.map(
    lambda x: (
      x._replace(count=jnp.asarray(step, jnp.int32)) if is_schedule(x) else x
    ),
    opt_state,
    is_leaf=is_schedule,
  )


def zero_sums() -> Sums:
  """The sums of a log line at its start."""
  names = ('loss', 'correct', 'grad_norm', 'steps')
  return {name: jnp.zeros((), jnp.float32) for name in names}


def freeze(
  method: Method | None, state: State, tx: optax.GradientTransformation
) -> State:
  """Writes the effective weights back, for a phase that keeps the zeros.

  The optimizer goes on with its momenta, as in ST-3's released code; the one
  of a zero weight does nothing (:func:`str_jax.optim.keep_zeros`).

  Args:
    method: of the phase that ends.
    state: its last state.
    tx: the optimizer of the next phase, with the same core.

  Returns:
    The first state of the next phase.
  """
  frozen = layout.freeze(method, state.variables)
  new = from_variables(frozen, tx, state.step)
  return dataclasses.replace(
    new,
    opt_state=_with_momenta(new.opt_state, state.opt_state),
    sums=state.sums,
    first_nonfinite=state.first_nonfinite,
  )


def _with_momenta(opt_state: Any, source: Any) -> Any:
  """The state of a chain with another's momenta, leaf by leaf of a name."""
  kinds = (optax.TraceState, optax.ScaleByAdamState)
  is_momenta = lambda x: isinstance(x, kinds)
  found = iter(filter(is_momenta, jax.tree.leaves(source, is_leaf=is_momenta)))

  def take(x: Any) -> Any:
    if not is_momenta(x):
      return x
    leaves = named_leaves(next(found))
    return jax.tree_util.tree_map_with_path(
      lambda path, _: leaves[path_names(path)], x
    )

  return jax.tree.map(take, opt_state, is_leaf=is_momenta)
