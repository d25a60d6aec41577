"""The training step and the evaluation step: pure functions to be jitted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from str_jax import variables as layout
from str_jax.data import Dataset
from str_jax.methods import Method
from str_jax.training.state import State, Sums

Batch = dict[str, jax.Array]
Loss = Callable[..., tuple[jax.Array, tuple[Any, jax.Array]]]
Whole = Callable[[Any], Any]


def make_train_step(
  model: Any,
  method: Method | None,
  tx: optax.GradientTransformation,
  dataset: Dataset,
  *,
  label_smoothing: float,
  seed: int,
  accumulate: int = 1,
  whole: Whole = lambda variables: variables,
) -> Callable[[State, Batch], State]:
  """One update: forward, backward, optimizer, computed thresholds.

  Args:
    model: a Linen module whose layers hold the method.
    method: the same method, for its computed thresholds.
    tx: the optimizer.
    dataset: for the pixels' mean and standard deviation.
    label_smoothing: in [0, 1).
    seed: of whatever the model draws in training, such as dropout.
    accumulate: parts of a batch that go through the model one after another;
      the gradient is the whole batch's, BatchNorm sees a part at a time.
    whole: see :func:`make_loss`.

  Returns:
    A function from state and batch to the next state; metrics are summed up
    in the state.
  """
  loss_fn = make_loss(
    model, dataset, label_smoothing=label_smoothing, seed=seed, whole=whole
  )
  gradients_fn = _accumulated(loss_fn, accumulate)

  def train_step(state: State, batch: Batch) -> State:
    params = state.variables['params']
    (loss, (updated, correct)), gradients = gradients_fn(
      params, state.variables, batch, state.step
    )
    updates, opt_state = tx.update(gradients, state.opt_state, params)
    step = state.step + 1
    variables = {
      **state.variables,
      **updated,
      'params': optax.apply_updates(params, updates),
    }
    norm = optax.tree.norm(gradients)
    new = {'loss': loss, 'correct': correct, 'grad_norm': norm, 'steps': 1.0}
    # The new variables may overflow where loss and gradient do not.
    watched = jax.tree.leaves((loss, norm, variables))
    finite = jnp.stack([jnp.isfinite(x).all() for x in watched]).all()
    bad = ~finite & (state.first_nonfinite < 0)
    return State(
      step=step,
      variables=layout.update_thresholds(method, variables, step),
      opt_state=opt_state,
      sums=jax.tree.map(jnp.add, state.sums, new),
      first_nonfinite=jnp.where(bad, step, state.first_nonfinite),
    )

  return train_step


def make_loss(
  model: Any,
  dataset: Dataset,
  *,
  label_smoothing: float,
  seed: int,
  whole: Whole = lambda variables: variables,
) -> Loss:
  """The loss that is trained on.

  Args:
    model: a Linen module.
    dataset: for the pixels' mean and standard deviation.
    label_smoothing: in [0, 1).
    seed: of whatever the model draws in training.
    whole: puts the parts of variables together that devices share out.

  Returns:
    A function from params, the variables around them, a batch and the step to
    the loss, and beside it the new statistics and the share of hits.
  """
  normalize = _normalizer(dataset)

  def loss_fn(
    params: Any, variables: Any, batch: Batch, step: jax.Array
  ) -> tuple[jax.Array, tuple[Any, jax.Array]]:
    key = jax.random.fold_in(jax.random.key(seed), step)
    logits, updated = model.apply(
      whole({**variables, 'params': params}),
      normalize(batch['image']),
      train=True,
      mutable=['batch_stats'],
      rngs={'dropout': key},
    )
    targets = jax.nn.one_hot(batch['label'], logits.shape[-1])
    targets = optax.smooth_labels(targets, label_smoothing)
    loss = optax.softmax_cross_entropy(logits, targets).mean()
    correct = jnp.mean(logits.argmax(-1) == batch['label'])
    return loss, (updated, correct)

  return loss_fn


def _accumulated(loss_fn: Loss, parts: int) -> Callable[..., Any]:
  """The gradient of a loss with its value, over a batch in so many parts."""
  gradients_fn = jax.value_and_grad(loss_fn, has_aux=True)
  if parts == 1:
    return gradients_fn

  def split(x: jax.Array) -> jax.Array:
    # Every part takes examples of all devices: none has to move.
    return x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)

  def accumulated(
    params: Any, variables: Any, batch: Batch, step: jax.Array
  ) -> Any:
    def one(carry: Any, part: tuple[jax.Array, Batch]) -> tuple[Any, None]:
      sums, statistics = carry
      number, examples = part
      (loss, (updated, correct)), gradients = gradients_fn(
        params, variables | statistics, examples, step * parts + number
      )
      return (_add(sums, (loss, correct, gradients)), dict(updated)), None

    zeros = (jnp.zeros(()), jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    statistics = {k: variables[k] for k in ('batch_stats',) if k in variables}
    numbered = (jnp.arange(parts), jax.tree.map(split, batch))
    (sums, updated), _ = jax.lax.scan(one, (zeros, statistics), numbered)
    loss, correct, gradients = jax.tree.map(lambda x: x / parts, sums)
    return (loss, (updated, correct)), gradients

  return accumulated


def _add(a: Any, b: Any) -> Any:
  return jax.tree.map(jnp.add, a, b)


def make_eval_step(
  model: Any, dataset: Dataset, whole: Whole = lambda variables: variables
) -> Callable[[Any, Batch], Sums]:
  """Sums of loss, hits and weights over a batch.

  Args:
    model: a Linen module.
    dataset: for the pixels' mean and standard deviation.
    whole: see :func:`make_loss`.

  Returns:
    A function from variables and batch to sums over the batch, each example
    by its weight: 0 for those that only fill the last batch.
  """
  normalize = _normalizer(dataset)

  def eval_step(variables: Any, batch: Batch) -> Sums:
    logits = model.apply(
      whole(variables), normalize(batch['image']), train=False
    )
    loss = optax.softmax_cross_entropy_with_integer_labels(
      logits, batch['label']
    )
    correct = (logits.argmax(-1) == batch['label']).astype(jnp.float32)
    weight = batch['weight']
    return {
      'loss': jnp.sum(loss * weight),
      'correct': jnp.sum(correct * weight),
      'examples': jnp.sum(weight),
    }

  return eval_step


def _normalizer(dataset: Dataset) -> Callable[[jax.Array], jax.Array]:
  """Pixels as they are stored to zero mean and unit variance, on the device."""
  mean = jnp.array(dataset.mean, jnp.float32).reshape(1, 1, 1, -1)
  std = jnp.array(dataset.std, jnp.float32).reshape(1, 1, 1, -1)
  return lambda image: (image.astype(jnp.float32) - mean) / std
