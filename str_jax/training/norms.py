"""BatchNorm's statistics, estimated anew for weights that stay as they are."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import traverse_util

from str_jax.training import build, cpu
from str_jax.training import step as steps
from str_jax.training.stage import Stage
from str_jax.training.state import State

if TYPE_CHECKING:
  from str_jax.training.loop import Run

STATISTICS = 'batch_stats'
_EPSILON = 1e-5  # that the models' norms add to a variance

_Flat = dict[tuple[str, ...], Any]


def reestimate(
  run: Run, stage: Stage, variables: Mapping[str, Any], batches: int
) -> dict[str, Any]:
  r"""The variables with BatchNorm's statistics averaged over training batches.

  .. math:: \mu = \overline{\mu_b}, \qquad
     \sigma^2 = \overline{\sigma_b^2} + \overline{(\mu_b - \mu)^2}

  over the first batches of the run's own pipeline, with the weights held.

  Args:
    run: for its data, seed and placement.
    stage: whose method the variables are of.
    variables: Linen collections.
    batches: how many, 1 or more.

  Returns:
    Linen collections, placed as the run's state; those given, where the model
    has no BatchNorm.

  Raises:
    ValueError: less than 1 batch, or one that the devices cannot share.
  """
  if batches < 1:
    raise ValueError(
      f'BatchNorm needs 1 batch or more to be re-estimated, got {batches}.'
    )
  if STATISTICS not in variables:
    return dict(variables)
  run.check_batch()
  statistics_of = _batch_statistics(run, stage)
  sums: _Flat = {}
  with contextlib.closing(run.batches()) as stream:
    for number in range(batches):
      batch = run.placement.put(next(stream))
      new = _flat(jax.device_get(statistics_of(variables, batch, number)))
      for path, value in _moments(new).items():
        sums[path] = sums.get(path, 0.0) + value / batches
  statistics = traverse_util.unflatten_dict(_variances(sums))
  return dict(variables) | {STATISTICS: run.placement.lay(statistics)}


def renewed(run: Run, stage: Stage, state: State, batches: int) -> State:
  """The state with re-estimated statistics, see :func:`reestimate`.

  Args:
    run: of the state.
    stage: of the state.
    state: at the end of a training.
    batches: how many, 1 or more.

  Returns:
    The state; all else in it is as it was.
  """
  variables = reestimate(run, stage, state.variables, batches)
  return dataclasses.replace(state, variables=variables)


def drift(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, float]:
  r"""How far the statistics of each BatchNorm are from other ones.

  .. math:: \max_c \max \left( \frac{|\mu_c - \mu'_c|}
     {\sqrt{\sigma'^2_c + \epsilon}},\; \left| \log \frac{\sigma^2_c +
     \epsilon}{\sigma'^2_c + \epsilon} \right| \right)

  with the epsilon of the models' norms, as they see it: a channel whose
  weights are all zero is no matter.

  Args:
    old: variables of a Linen model.
    new: the same with other statistics, to be measured against.

  Returns:
    A number for each layer's path, '/' between levels; 0 is no drift. Empty
    for a model without BatchNorm.
  """
  ours, theirs = (_flat(v.get(STATISTICS, {})) for v in (old, new))
  found = {}
  for path in ours:
    if path[-1] != 'mean':
      continue
    var = (*path[:-1], 'var')
    means, variances = (
      [np.asarray(side[at], np.float64) for side in (ours, theirs)]
      for at in (path, var)
    )
    first, second = (v + _EPSILON for v in variances)
    shift = np.abs(means[0] - means[1]) / np.sqrt(second)
    stretch = np.abs(np.log(first / second))
    found['/'.join(path[:-1])] = float(max(shift.max(), stretch.max()))
  return found


def _batch_statistics(run: Run, stage: Stage) -> Any:
  """A compiled function from variables, batch and number to its statistics."""
  config = copy.deepcopy(run.config)
  config.model.norm_momentum = 0.0  # nothing of the average before is kept
  loss = steps.make_loss(
    build.model(config, run.dataset.num_classes, stage.method),
    run.dataset,
    label_smoothing=0.0,
    seed=config.seed,
    whole=run.placement.whole,
  )

  def statistics(variables: Any, batch: Any, number: jax.Array) -> Any:
    _, (updated, _) = loss(variables['params'], variables, batch, number)
    return updated[STATISTICS]

  return jax.jit(
    statistics,
    out_shardings=run.placement.replicated,
    compiler_options=cpu.compiler_options(build.lowering(config)),
  )


def _flat(tree: Any) -> _Flat:
  return traverse_util.flatten_dict(tree)


def _moments(statistics: _Flat) -> _Flat:
  """What is to be averaged: means, variances, and the means' squares.

  In float64, where squares lose nothing that matters of float32 numbers.
  """
  moments = {p: np.asarray(v, np.float64) for p, v in statistics.items()}
  squares = {
    (*p[:-1], 'square'): v**2 for p, v in moments.items() if p[-1] == 'mean'
  }
  return moments | squares


def _variances(moments: _Flat) -> _Flat:
  """Means, and variances by the law of total variance."""
  out: _Flat = {}
  for path, mean in moments.items():
    if path[-1] != 'mean':
      continue
    layer = path[:-1]
    between = np.maximum(moments[(*layer, 'square')] - mean**2, 0)
    out[path] = mean.astype(np.float32)
    variance = moments[(*layer, 'var')] + between
    out[(*layer, 'var')] = variance.astype(np.float32)
  return out
