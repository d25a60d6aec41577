"""The doctor after training: looks at a run's checkpoint and tells."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import rich.table

from str_jax import report
from str_jax.layout import sparse_weights
from str_jax.methods import Method
from str_jax.paths import THRESHOLD, layer_name
from str_jax.training import console as consoles
from str_jax.training import diagnosis, finish, norms, opened, plan, step
from str_jax.training.diagnosis import Finding
from str_jax.training.stage import Stage
from str_jax.training.state import State

STALE = 0.005  # of accuracy that re-estimated statistics give back
_BATCHES = 8  # of training images, for gradients
_NORM_BATCHES = 50


def run(
  directory: pathlib.Path, checkpoint: str = 'last', data_dir: str | None = None
) -> list[Finding]:
  """Examines a run's checkpoint and prints what is found.

  Args:
    directory: the folder of the run.
    checkpoint: 'last', 'best' or a step.
    data_dir: where TFDS sets lie, in place of the config's.

  Returns:
    The findings.

  Raises:
    FileNotFoundError: no run there.
    ValueError: the checkpoint cannot be read.
  """
  trained, stage, state = opened.checkpoint(
    directory, checkpoint, data_dir=data_dir
  )
  variables = state.variables
  layers = finish.sparsity_report(trained, stage, variables)
  gradients = pulls(trained, stage, state)
  decay = plan.threshold_decay(trained.config.optimizer, stage.method) or 0.0
  found = diagnosis.examine(stage.method, variables, layers, gradients, decay)
  found += stale_norms(trained, stage, state)
  _show(stage.method, variables, layers, gradients, decay)
  for finding in found:
    print(f'{finding.kind}: {finding.text}')
  if not found:
    print('nothing is amiss.')
  return found


def pulls(run: Any, stage: Stage, state: State) -> dict[str, float]:
  """The gradient of the loss to each learned threshold, over some batches.

  Args:
    run: of the training.
    stage: with its model.
    state: to be looked at.

  Returns:
    By layer, averaged over batches and summed over a layer's thresholds; empty
    for a method without learned ones.
  """
  params = state.variables['params']
  learned = {
    path[:-1]
    for path, entry in sparse_weights(stage.method, state.variables).items()
    if stage.method and stage.method.init_learned(entry.weight) is not None
  }
  if not learned:
    return {}
  loss = step.make_loss(
    stage.model,
    run.dataset,
    label_smoothing=run.config.label_smoothing,
    seed=run.config.seed,
  )
  gradient = jax.jit(jax.grad(lambda *x: loss(*x)[0]))
  sums = dict.fromkeys(learned, 0.0)
  with contextlib.closing(run.batches()) as batches:
    for _ in range(_BATCHES):
      batch = run.placement.put(next(batches))
      g = gradient(params, state.variables, batch, state.step)
      for path in learned:
        leaf = g
        for name in (*path, THRESHOLD):
          leaf = leaf[name]
        sums[path] += float(leaf.sum()) / _BATCHES
  return {'/'.join(path): value for path, value in sums.items()}


def stale_norms(run: Any, stage: Stage, state: State) -> list[Finding]:
  """Whether other BatchNorm statistics would do better on validation."""
  if norms.STATISTICS not in state.variables:
    return []
  split = 'validation' if run.dataset.splits['validation'] else 'train'
  better = norms.reestimate(run, stage, state.variables, _NORM_BATCHES)
  before, after = (
    run.evaluate(stage, variables, split)['accuracy']
    for variables in (state.variables, better)
  )
  if after - before < STALE:
    return []
  drift = norms.drift(state.variables, better)
  layer = max(drift, key=lambda name: drift[name])
  return [
    Finding(
      'norms',
      layer,
      f"BatchNorm's running averages are stale: {before:.2%} of the {split} "
      f'images are right with them, {after:.2%} with averages over '
      f'{_NORM_BATCHES} batches; furthest off is {layer}. Train with '
      f'--config.norm_batches={_NORM_BATCHES}, or more steps at a small '
      'learning rate.',
    )
  ]


def _show(
  method: Method | None,
  variables: Any,
  layers: report.Report,
  gradients: Mapping[str, float],
  decay: float,
) -> None:
  console = consoles.wide()
  learned = {
    layer_name('/'.join(path)): float(jnp.mean(entry.leaves[0]))
    for path, entry in sparse_weights(method, variables).items()
    if gradients
  }
  header = ['layer', 'zeros', 'threshold', 'of weights left', 'of FLOPs left']
  table = rich.table.Table(title='layers')
  for name in header + ['s', 'dL/ds', 'decay * s'] * bool(gradients):
    table.add_column(name, justify='left' if name == 'layer' else 'right')
  for row in layers.rows:
    cells = [
      row.name,
      f'{row.sparsity:.2%}',
      '' if row.threshold is None else f'{row.threshold:.3g}',
      f'{row.nonzero / max(layers.nonzero, 1):.1%}',
      f'{(row.flops or 0) / max(layers.flops or 0, 1):.1%}',
    ]
    if row.name in gradients:
      s = learned[row.name]
      cells += [f'{s:.4g}', f'{gradients[row.name]:.3g}', f'{decay * s:.3g}']
    table.add_row(*cells)
  console.print(table)
  if method is None:
    return
  table = rich.table.Table(title='what another sparsity would take')
  for name in (
    'zeros',
    'thresholds, times',
    'largest zeroed',
    'magnitude lost',
  ):
    table.add_column(name, justify='right')
  for p in diagnosis.curve(method, variables):
    table.add_row(
      f'{p.sparsity:.1%}',
      f'{p.factor:.3g}',
      f'{p.largest:.3g}',
      f'{p.mass:.1%}',
    )
  console.print(table)
