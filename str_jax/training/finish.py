"""The end of a run: test accuracy, summary.json, report.html, the table."""

from __future__ import annotations

import importlib.metadata
import pathlib
import shlex
from typing import TYPE_CHECKING, Any

import jax
import rich.table

from str_jax import compaction, flops, methods, report
from str_jax.training import console as consoles
from str_jax.training import distributed, records
from str_jax.training.metrics import Log, Silent
from str_jax.training.stage import Stage
from str_jax.training.state import State

if TYPE_CHECKING:
  from str_jax.training.loop import Run

_VERSIONS = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain')


def finish(
  run: Run, stage: Stage, state: State, log: Log | Silent, command: str
) -> dict[str, Any]:
  """Evaluates on test and writes what a finished run leaves.

  Args:
    run: the run.
    stage: its last stage.
    state: its last state.
    log: for its times, and for the results.
    command: what started the run.

  Returns:
    The content of summary.json.
  """
  from str_jax.training import page  # draws with matplotlib: slow to import

  result = run.evaluate(stage, state.variables, 'test')
  best = _best(run)
  variables = run.placement.readable(state.variables)
  layers = sparsity_report(run, stage, variables)
  ranks = compaction.describe(stage.model, variables)
  config = run.config
  summary = records.as_json(
    {
      'command': command,
      'config': config.to_dict(),
      'config_name': config.name,
      'variant': config.variant,
      'method': str(run.plan.phases[0].method or 'dense'),
      'model': config.model.name,
      'dataset': run.dataset.name,
      'note': f'{run.dataset.note} {ranks}'.strip(),
      'steps': run.plan.total_steps,
      'top1': result['accuracy'],
      'eval_loss': result['loss'],
      **best,
      'sparsity': layers.sparsity,
      'weights': layers.weights,
      'nonzero': layers.nonzero,
      'dense_flops': layers.dense_flops,
      'flops': layers.flops,
      'layers': layers.to_dicts(),
      'target': _target(
        run, layers, report.tied_weights(stage.method, variables)
      ),
      'seconds': round(log.seconds, 2),
      'examples_per_second': log.examples_per_second,
      'device': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
      'versions': {v: importlib.metadata.version(v) for v in _VERSIONS},
    }
  )

  def write() -> None:
    log.results(summary)  # first: a finished run is not opened again
    records.write_json(run.directory / 'summary.json', summary)
    page.write(run.directory)

  distributed.on_first(write)
  show(summary, run.directory)
  print(f'report: {run.directory / "report.html"}')
  return summary


def finished(directory: pathlib.Path) -> dict[str, Any] | None:
  """Shows a run that is finished.

  Args:
    directory: its folder.

  Returns:
    The content of summary.json; None while there is none.
  """
  if not (directory / 'summary.json').exists():
    return None
  summary = records.read_json(directory / 'summary.json')
  print(
    f'{directory} holds a finished run of {summary["steps"]} steps; nothing '
    'was changed.'
  )
  show(summary, directory)
  return summary


def sparsity_report(run: Run, stage: Stage, variables: Any) -> report.Report:
  """The report by layer of a stage's variables, with FLOPs.

  Args:
    run: the run.
    stage: with the method of the variables.
    variables: Linen collections.

  Returns:
    The report.
  """
  dense = flops.count(stage.model, run.dataset.image_shape)
  return report.sparsity_report(stage.method, variables, flops=dense)


def show(summary: dict[str, Any], directory: pathlib.Path) -> None:
  """Prints a summary: the table by layer, the totals, and what is amiss.

  Args:
    summary: the content of summary.json.
    directory: the folder that it is from.
  """
  console = consoles.wide()
  table = rich.table.Table(
    title=f'{summary["model"]} on {summary["dataset"]}: {summary["method"]}'
  )
  for column in report.COLUMNS:
    is_text = column in ('name', 'shape')
    table.add_column(
      column.replace('_', ' '), justify='left' if is_text else 'right'
    )
  rows = report.from_dicts(summary['layers']).cells()
  for cells in rows[:-1]:
    table.add_row(*cells)
  table.add_section()
  table.add_row(*rows[-1], style='bold')
  console.print(table)
  best = ''
  if summary['best_top1'] is not None:
    best = (
      f' (best on validation, step {summary["best_step"]}: '
      f'{summary["best_top1"]:.2%})'
    )
  top1 = summary['top1']
  accuracy = 'not evaluated' if top1 is None else f'{top1:.2%}'
  print(
    f'test accuracy {accuracy}{best}, sparsity '
    f'{summary["sparsity"]:.2%}, {summary["nonzero"]:,} of '
    f'{summary["weights"]:,} weights, '
    f'{summary["flops"] / summary["dense_flops"]:.2%} of the dense FLOPs, '
    f'{summary["seconds"]:.1f} s'
  )
  target = summary.get('target')
  if target is not None:
    print(
      f'target {target["name"]}={target["value"]}: {target["kept"]:,} of at '
      f'most {target["limit"]:,} {target["unit"]} are kept; weights that tie '
      f'with their threshold: {target["tied"]:,}'
    )
  for number, row in enumerate(summary.get('rounds', ())):
    best = row['best_top1']
    print(
      f'round {number}: sparsity {row["sparsity"]:.2%}, {row["nonzero"]:,} '
      f'weights, test accuracy {row["top1"]:.2%}'
      + ('' if best is None else f' (best on validation: {best:.2%})')
      + f', {row["seconds"]:.1f} s'
    )
  if summary['note']:
    print(summary['note'])
  _show_dead(summary, directory)


def _show_dead(summary: dict[str, Any], directory: pathlib.Path) -> None:
  dead = sum(not layer['nonzero'] for layer in summary['layers'])
  if not dead:
    return
  if rounds := len(summary.get('rounds', ())):  # each has a folder of its own
    directory /= f'round-{rounds - 1}'
  said = '1 layer has' if dead == 1 else f'{dead} layers have'
  command = shlex.join(['python', '-m', 'str_jax', 'doctor', str(directory)])
  print(f'{said} no weight left: {command} says why')


def _target(
  run: Run, layers: report.Report, tied: int
) -> dict[str, Any] | None:
  """What was asked for and what is there, where the method has a target."""
  target = getattr(run.plan.phases[0].method, 'target', None)
  if target is None:
    return None
  total, kept = layers.weights, layers.nonzero
  if target.counts_flops:
    assert layers.dense_flops is not None and layers.flops is not None
    total, kept = layers.dense_flops, layers.flops
  name, value = target.asked
  unit = 'multiply-adds' if target.counts_flops else 'weights'
  if isinstance(run.plan.phases[0].method, methods.STRGroup):
    unit += ' (in whole filters)'
  return {
    'name': name,
    'value': value,
    'unit': unit,
    'limit': target.kept(total),
    'kept': kept,
    'tied': tied,
  }


def _best(run: Run) -> dict[str, Any]:
  """Test accuracy of the checkpoint that was best on validation."""
  none = {'best_top1': None, 'best_step': None, 'best_validation_top1': None}
  found = run.checkpoints.best()
  if found is None:
    return none
  step, accuracy = found
  try:
    stage, state = run.restore(step)
  except ValueError as error:  # the run need not be lost with it
    print(error)
    return none
  result = run.evaluate(stage, state.variables, 'test')
  return {
    'best_top1': result['accuracy'],
    'best_step': step,
    'best_validation_top1': accuracy,
  }
