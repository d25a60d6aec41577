"""Pruning a trained network to a target in one go, without training it."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import rich.table
from ml_collections import ConfigDict

import str_jax
from str_jax import flops, methods, report
from str_jax.training import (
  build,
  command_line,
  finish,
  flags,
  norms,
  records,
)
from str_jax.training import console as consoles
from str_jax.training.loop import Run
from str_jax.training.stage import Stage
from str_jax.training.state import State

Asked = Mapping[str, float]  # one of a Target's four: name to value
_SPLITS = ('validation', 'test')


@dataclasses.dataclass(frozen=True)
class Row:
  """A row of the table: a network, and how it does."""

  name: str
  accuracies: tuple[float | None, ...]  # of the splits
  layers: report.Report


def check(asked: Asked, norm_batches: int) -> None:
  """Checks what needs no network.

  Args:
    asked: the target.
    norm_batches: to re-estimate BatchNorm's statistics with.

  Raises:
    ValueError: one of them is out of range.
  """
  _target(asked)
  if norm_batches < 0:
    raise ValueError(f'--norm_batches must be 0 or more, got {norm_batches}.')


def folder(directory: pathlib.Path, asked: Asked) -> pathlib.Path:
  """Where the pruned network goes by default: DIRECTORY-snap-TARGET.

  Args:
    directory: the folder of the run.
    asked: the target.

  Returns:
    A folder beside it.

  >>> folder(pathlib.Path('runs/a'), {'sparsity': 0.9}).name
  'a-snap-0.9'
  """
  ((name, value),) = asked.items()
  if not directory.name or directory.name == '..':
    directory = directory.resolve()
  unit = '' if name == 'sparsity' else name
  return directory.with_name(f'{directory.name}-snap-{unit}{value}')


def snap(
  run: Run,
  stage: Stage,
  state: State,
  asked: Asked,
  out: pathlib.Path,
  norm_batches: int,
  command: str,
) -> list[Row]:
  """Prunes a checkpoint, makes a folder of it and prints what it cost.

  Args:
    run: the training.
    stage: of the checkpoint.
    state: of the checkpoint.
    asked: the target.
    out: the new folder, of a run with the method 'frozen'.
    norm_batches: to re-estimate BatchNorm's statistics with; 0 for not.
    command: for the report.

  Returns:
    The table: as trained, snapped, and with the statistics re-estimated.

  Raises:
    ValueError: a target that is out of reach, or met already.
  """
  if not int(state.step) and not _is_imported(run.directory):
    raise ValueError(
      f'{run.directory} was not trained yet at step 0: snap a later checkpoint.'
    )
  variables = prune(run, stage, state.variables, asked)
  rows = [_row('as trained', run, stage, state.variables)]
  with made_whole(out):
    new = Run(_config(run, int(state.step)), out)
    frozen = new.stage(new.plan.phases[0])
    rows.append(_row('snapped', new, frozen, variables))
    if norm_batches and norms.STATISTICS in variables:
      variables = norms.reestimate(new, frozen, variables, norm_batches)
      rows.append(_row('BatchNorm re-estimated', new, frozen, variables))
    _write(run, new, frozen, variables, command)
  _show(rows)
  print(f'to train on with these zeros:\n{again(run, out)}')
  return rows


def prune(
  run: Run, stage: Stage, variables: Mapping[str, Any], asked: Asked
) -> dict[str, Any]:
  """Effective weights without the smallest magnitudes of the whole net.

  Layers that the run leaves dense stay so, and count.

  Args:
    run: the training.
    stage: whose method the variables are of.
    variables: Linen collections.
    asked: the target.

  Returns:
    Dense Linen collections that meet the target to the weight, but for
    weights that tie.

  Raises:
    ValueError: the target is out of reach, or met already.
  """
  layers = finish.sparsity_report(run, stage, variables)
  counts = {row.name: row.dense_flops or 0 for row in layers.rows}
  uses = flops.uses(counts, variables)
  target = _target(asked, uses)
  have, total, unit = layers.nonzero, layers.weights, 'weights'
  if target.counts_flops:
    have, total = layers.flops or 0, layers.dense_flops or 0
    unit = 'multiply-adds'
  if have <= target.kept(total):
    raise ValueError(
      f'a snap only takes weights away: {run.directory} has '
      f'{layers.sparsity:.2%} zeros and uses {have:,} of {total:,} {unit} '
      f'already, but {target.kept(total):,} may stay: ask for fewer.'
    )
  method = methods.GMP(budget='global', target=target)
  pruned = build.prunable(run.config, run.inputs)
  added = str_jax.add_thresholds(
    method,
    str_jax.freeze(stage.method, variables),
    where=lambda path, _: path in pruned,
  )

  def cut(variables: Any) -> Any:
    step = method.settled_step
    updated = str_jax.update_thresholds(method, variables, step)
    return str_jax.freeze(method, updated)

  abstract = jax.eval_shape(cut, added)
  return jax.jit(cut, out_shardings=run.placement.shardings(abstract))(added)


@contextlib.contextmanager
def made_whole(out: pathlib.Path) -> Iterator[None]:
  """Removes a folder, which was not there before, if it comes to nothing.

  Args:
    out: the folder that is being made.

  Raises:
    ValueError: it is there already.
  """
  try:
    out.mkdir(parents=True)
  except FileExistsError as error:
    raise ValueError(
      f'{out} is to be made, but is there already: name another folder by '
      '--out.'
    ) from error
  try:
    yield
  except BaseException:
    shutil.rmtree(out, ignore_errors=True)
    raise


def again(run: Run, out: pathlib.Path) -> str:
  """The command that trains the pruned network on, its zeros frozen.

  Args:
    run: the training that it is from.
    out: the folder of the pruned network.

  Returns:
    A command line: the training's, from the pruned network.
  """
  config = _as_frozen(run.config)
  config.init_from = str(out)
  path = f'configs/{config.name or "CONFIG"}.py'
  spec = f'{path}:{config.variant}' if config.variant else path
  try:
    given, _ = flags.load_config(spec)
  except ValueError:  # not in this folder: only what differs for sure
    given = run.config
  return command_line.training(config, spec, given)


def _is_imported(directory: pathlib.Path) -> bool:
  """Whether the run was finished at step 0: its network came trained."""
  path = directory / 'summary.json'
  return path.exists() and records.read_json(path)['steps'] == 0


def _target(
  asked: Asked, uses: Mapping[str, int] | None = None
) -> methods.Target:
  values: dict[str, Any] = dict(asked)
  return methods.Target(**values, uses=uses)


def _as_frozen(config: ConfigDict) -> ConfigDict:
  """A config with the method 'frozen', and nothing of the run's own method."""
  config = copy.deepcopy(config)
  for name in config.method:
    config.method[name] = 'frozen' if name == 'name' else None
  config.optimizer.dense_decay = None  # for learned thresholds alone
  config.init_from = None
  return config


def _config(run: Run, step: int) -> ConfigDict:
  """The config of a run that ends at a step with its zeros frozen."""
  config = _as_frozen(run.config)
  values: dict[str, Any] = {
    'total_steps': max(step, 1),  # 0 of an imported network
    'total_epochs': None,
    'checkpoint_keep_steps': None,
    'checkpoint_keep_epochs': None,
  }
  if step < run.plan.total_steps:  # it may have been in its warm-up yet
    values |= {'schedule.warmup_steps': None, 'schedule.warmup_epochs': None}
  config.update_from_flattened_dict(values)
  return config


def _row(name: str, run: Run, stage: Stage, variables: Any) -> Row:
  accuracies = (
    run.evaluate(stage, variables, split)['accuracy']
    if run.dataset.splits[split] is not None
    else None
    for split in _SPLITS
  )
  layers = finish.sparsity_report(run, stage, variables)
  return Row(name, tuple(accuracies), layers)


def _write(
  run: Run, new: Run, stage: Stage, variables: Any, command: str
) -> None:
  """What a finished run leaves: the metrics of the training go on in it."""
  for name in ('metrics.jsonl', 'timing.jsonl'):
    if (run.directory / name).exists():
      text = (run.directory / name).read_text()
      records.write_text(new.directory / name, text)
  state = new.state_of(variables, stage, new.plan.total_steps)
  with contextlib.closing(new.checkpoints):
    with contextlib.closing(new.open_log(new.plan.total_steps)) as log:
      accuracy = new.log_validation(stage, state, log)
      new.checkpoints.save(state, accuracy)
      finish.finish(new, stage, state, log, command)


def _show(rows: list[Row]) -> None:
  console = consoles.wide()
  table = rich.table.Table()
  table.add_column('')
  for column in (*_SPLITS, 'zeros', 'weights', 'multiply-adds'):
    table.add_column(column, justify='right')
  for row in rows:
    layers = row.layers
    table.add_row(
      row.name,
      *('' if a is None else f'{a:.2%}' for a in row.accuracies),
      f'{layers.sparsity:.2%}',
      f'{layers.nonzero:,}',
      f'{layers.flops:,}',
    )
  console.print(table)
  dead = [row.name for row in rows[-1].layers.rows if not row.nonzero]
  if dead:
    print(f'no weight is left in {", ".join(dead)}')
