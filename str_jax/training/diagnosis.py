"""Why layers are dense or dead, and what another sparsity would take."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from str_jax import methods, quantile, report
from str_jax.layout import SparseWeight, sparse_weights
from str_jax.methods import Method
from str_jax.methods.pruning import zeros
from str_jax.paths import layer_name
from str_jax.training import forecast

DENSE = 0.01  # fewer zeros than this: a layer that was meant to be sparse
HEAVY = 0.3  # of the FLOPs left in one layer, and three times its weights
CURVE = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)


@dataclasses.dataclass(frozen=True)
class Finding:
  """Something that is not as it should be.

  Attributes:
    kind: 'dense', 'dead', 'flops' or 'norms'.
    layer: that it is about; '' for the whole net.
    text: what is seen, why, and what to do.
  """

  kind: str
  layer: str
  text: str


@dataclasses.dataclass(frozen=True)
class Point:
  """A sparsity of the sparse layers, and what it takes to get there.

  Attributes:
    sparsity: fraction of zeros.
    factor: thresholds over today's.
    largest: magnitude that is zeroed, a norm where filters are.
    mass: share of the sum of magnitudes that is zeroed.
  """

  sparsity: float
  factor: float
  largest: float
  mass: float


def examine(
  method: Method | None,
  variables: Any,
  layers: report.Report,
  pulls: Mapping[str, float],
  threshold_decay: float = 0.0,
) -> list[Finding]:
  """What the layers' weights, thresholds and gradients tell.

  Args:
    method: of the variables.
    variables: with thresholds.
    layers: the report on them, with FLOPs.
    pulls: by layer, the loss's gradient to its learned threshold.
    threshold_decay: that s was trained with.

  Returns:
    The findings, layer by layer.
  """
  found = []
  weights = {
    layer_name('/'.join(path)): entry
    for path, entry in sparse_weights(method, variables).items()
  }
  for row in layers.rows:
    entry = weights.get(row.name)
    if entry is None or method is None:
      continue
    if not row.nonzero:
      found.append(Finding('dead', row.name, _why_dead(method, row, entry)))
    elif row.sparsity < DENSE <= layers.sparsity or (
      row.sparsity < DENSE and _has_not_begun(method, entry)
    ):
      why = _why_dense(method, row, entry, pulls.get(row.name), threshold_decay)
      found.append(Finding('dense', row.name, why))
  return found + _heavy(layers)


def curve(
  method: Method | None, variables: Any, sparsities: Sequence[float] = CURVE
) -> list[Point]:
  r"""How far all thresholds together must rise or fall, sparsity by sparsity.

  .. math:: \min \{ f \ge 0 : \#\{ |w_{l,i}| \le f\,t_l \} \ge p N \}

  Nothing is trained: it says how steep the way is, from the weights as they
  are, those below today's thresholds among them.

  Args:
    method: of the variables.
    variables: with thresholds.
    sparsities: p, of the layers with thresholds.

  Returns:
    A point for each.
  """
  assert method is not None
  entries = list(sparse_weights(method, variables).values())
  weights = [entry.weight for entry in entries]
  compared = [method.compared(w) for w in weights]
  groups = [w.size // c.size for w, c in zip(weights, compared, strict=True)]
  thresholds = [_threshold(method, entry) for entry in entries]
  # A layer whose threshold is zero has no share of its own yet.
  above = [t for t in thresholds if t > 0]
  scales = [t if t > 0 else float(np.mean(above or [1.0])) for t in thresholds]
  total = quantile.total_count(compared, groups)

  @jax.jit
  def at(rank: jax.Array) -> tuple[jax.Array, jax.Array]:
    factor = quantile.kth_magnitude(compared, rank, uses=groups, scales=scales)
    gone = []
    for w, c, s in zip(weights, compared, scales, strict=True):
      dead, size = jnp.abs(c) <= factor * s, jnp.abs(c)
      mass = jnp.where(dead, jnp.abs(w), 0.0).sum()
      gone.append(jnp.stack([mass, jnp.where(dead, size, 0.0).max()]))
    return factor, jnp.stack(gone)

  mass = sum(float(jnp.abs(w).sum()) for w in weights)
  points = []
  for sparsity in sparsities:
    factor, gone = at(quantile.rank(max(1, zeros(sparsity, total))))
    points.append(
      Point(
        sparsity,
        float(factor) if above else float('nan'),
        float(gone[:, 1].max()),
        float(gone[:, 0].sum()) / mass,
      )
    )
  return points


def _threshold(method: Method | None, entry: SparseWeight) -> float:
  assert method is not None
  return float(jnp.mean(method.threshold(entry.weight, *entry.leaves)))


def _has_not_begun(method: Method, entry: SparseWeight) -> bool:
  """Whether a threshold is where it touches no weight."""
  return _threshold(method, entry) < forecast.LEAVES_ZERO


def _why_dead(method: Method, row: report.Layer, entry: SparseWeight) -> str:
  compared = jnp.abs(method.compared(entry.weight))
  largest = float(compared.max())
  what = 'weight' if compared.size == entry.weight.size else "filter's norm"
  slope = jax.grad(lambda w: method(w, *entry.leaves).sum())(entry.weight)
  hope = (
    'its weights still get gradients, and may come back'
    if bool((slope != 0).any())
    else 'its weights get no gradient, and stay so'
  )
  return (
    f'{row.name} has no weight left: its threshold {row.threshold:.3g} is '
    f'above its largest {what}, {largest:.3g}; {hope}. Ask for fewer zeros, '
    'or keep some weights in every layer (method.target_floor, with a target).'
  )


def _why_dense(
  method: Method,
  row: report.Layer,
  entry: SparseWeight,
  pull: float | None,
  decay: float,
) -> str:
  text = f'{row.name} is {row.sparsity:.2%} zeros: '
  median = float(jnp.median(jnp.abs(method.compared(entry.weight))))
  learned = isinstance(method, methods.STR)
  s = float(jnp.mean(entry.leaves[0])) if learned else 0.0
  if isinstance(method, methods.STR) and method.target is None:
    pushes = f'decay pushes s = {s:.4g} up by {-decay * s:.2g} a unit of the '
    pushes += f'learning rate, the loss by {-(pull or 0.0):.2g}'
    if _has_not_begun(method, entry):
      return (
        f'{text}its threshold has not left zero. {pushes}. More '
        'optimizer.threshold_decay, or a higher method.init_value, gets it '
        'there: see python -m str_jax doctor --config=....'
      )
    if pull and pull > 0:
      return (
        f'{text}the loss holds its threshold down. {pushes}. More threshold '
        'decay prunes it, at a cost in accuracy.'
      )
    return f'{text}its threshold is on its way. {pushes}. Train longer.'
  if _threshold(method, entry) == 0:
    return f'{text}its threshold is zero: zeros have not begun at this step.'
  share = f', of which it has learned a low share (s = {s:.2f})' * learned
  return (
    f'{text}its weights are large beside the threshold{share}: their median, '
    f'{median:.3g}, is {median / _threshold(method, entry):.0f} times it.'
  )


def _heavy(layers: report.Report) -> list[Finding]:
  if not layers.flops or not layers.nonzero:
    return []
  found = []
  for row in layers.rows:
    flops = (row.flops or 0) / layers.flops
    weights = row.nonzero / layers.nonzero
    if flops >= HEAVY and flops >= 3 * weights and layers.sparsity >= DENSE:
      text = (
        f'{row.name} has {flops:.0%} of the FLOPs left, and {weights:.1%} of '
        'the weights: method.target_flops in place of a target of weights '
        'would take more from it.'
      )
      found.append(Finding('flops', row.name, text))
  return found
