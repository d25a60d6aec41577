"""Iterative magnitude pruning: a loop over runs, each sparser than the last.

``DIR/round-0`` is a dense run. Every further round prunes the smallest
weights of the round before, wherever in the net they are, and trains the
others again from there, ``DIR/round-1`` and so on: with the rate as at the
start (learning-rate rewinding: Renda et al., ICLR 2020; ST-3's released
code), or from the values that the others had at an early step of round 0,
with the rate of that step (weight rewinding: Frankle et al., ICML 2020).
"""

from __future__ import annotations

import copy
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from str_jax import quantile
from str_jax.paths import Path
from str_jax.training import (
  build,
  checkpoint,
  distributed,
  fields,
  finish,
  loop,
  records,
  workdir,
)
from str_jax.training.stage import Stage
from str_jax.training.state import State

_MOST_ROUNDS = 1000
_ROW = ('sparsity', 'nonzero', 'top1', 'best_top1', 'seconds')


def train(
  config: Any, directory: pathlib.Path, command: str = ''
) -> dict[str, Any]:
  """Trains all rounds; goes on where it was stopped.

  Args:
    config: see configs/common.py, with ``imp.rounds`` of 1 or more.
    directory: the folder of the rounds' folders; the same again resumes.
    command: what started it, for the report.

  Returns:
    The content of summary.json: the last round's, and the table of rounds.

  Raises:
    ValueError: a field or a folder that cannot be used, or a loss that is
      not finite.
    FileNotFoundError: the data set is not there.
  """
  check(config)
  workdir.check(directory, config)
  summary = finish.finished(directory)
  if summary is not None:
    return summary
  rounds = [0.0, *sparsities(config.imp.rounds, config.imp.sparsity)]
  done = []
  for number, sparsity in enumerate(rounds):
    folder = directory / f'round-{number}'
    if (folder / 'summary.json').exists():
      done.append(records.read_json(folder / 'summary.json'))
      continue
    print(f'round {number} of {config.imp.rounds}: {sparsity:.2%} zeros')
    part = settings(config, number)
    workdir.check(folder, part)
    run = loop.Run(part, folder)
    # Now that the fields are checked.
    distributed.on_first(lambda: workdir.claim(directory, config))
    start = None if number == 0 else _Pruned(directory, number, sparsity)
    done.append(run.complete(command, start))
  return _finish(config, directory, done, command)


def sparsities(rounds: int, sparsity: float) -> list[float]:
  r"""The fraction of zeros after each round.

  .. math:: s_i = 1 - (1 - s)^{i / n}

  Every round prunes the same share :math:`1 - (1 - s)^{1 / n}` of what is
  left; a share p gives :math:`s = 1 - (1 - p)^n`, 20% a round for 10 rounds
  89.26%.

  Args:
    rounds: their number n, the dense one not counted.
    sparsity: s, after the last of them.

  Returns:
    One fraction a round.

  ST-3 (WACV 2023), its released code prunes 20% a round.

  >>> [round(s, 4) for s in sparsities(3, 1 - 0.8**3)]
  [0.2, 0.36, 0.488]
  """
  return [1 - (1 - sparsity) ** (i / rounds) for i in range(1, rounds + 1)]


def masks(
  weights: dict[Path, np.ndarray], zeros: int
) -> dict[Path, np.ndarray]:
  """Which weights stay when the smallest of all are pruned.

  Args:
    weights: arrays of any shapes, by path.
    zeros: how many are pruned in all, exactly: of weights that tie, the
      first ones.

  Returns:
    Boolean arrays of the same shapes; False is pruned.

  >>> weights = {('a',): np.array([0.5, -3.0]), ('b',): np.array([-0.5, 1.0])}
  >>> [mask.tolist() for mask in masks(weights, 1).values()]
  [[False, True], [True, True]]
  """
  arrays = [jnp.asarray(w) for w in weights.values()]
  c = np.asarray(quantile.kth_magnitude(arrays, zeros))
  spare = zeros - sum(int((np.abs(w) < c).sum()) for w in weights.values())
  kept = {}
  for path, w in weights.items():
    tied = np.abs(w) == c
    dropped = tied & (tied.cumsum().reshape(w.shape) <= spare)
    spare -= int(dropped.sum())
    kept[path] = ~((np.abs(w) < c) | dropped)
  return kept


class _Pruned:
  """The first state of a round, from the checkpoints of earlier ones.

  The optimizer starts afresh, as any run's does.
  """

  def __init__(
    self, directory: pathlib.Path, number: int, sparsity: float
  ) -> None:
    self._origin = directory / 'round-0'
    self._before = directory / f'round-{number - 1}'
    self._sparsity = sparsity

  def __call__(self, run: loop.Run, stage: Stage) -> State:
    step = run.plan.kept_step
    trained = checkpoint.read_variables(self._before)
    start = trained
    if step is not None:
      start = checkpoint.read_variables(self._origin, step)
    flat = traverse_util.flatten_dict(trained['params'])
    pruned = build.prunable(run.config, run.inputs)
    weights = {path: flat[path] for path in pruned}
    count = sum(w.size for w in weights.values())
    kept = masks(weights, round(self._sparsity * count))
    params = traverse_util.flatten_dict(start['params'])
    params |= {path: np.where(kept[path], params[path], 0) for path in kept}
    variables = start | {'params': traverse_util.unflatten_dict(params)}
    return run.state_of(variables, stage, step or 0)


def check(config: Any) -> None:
  """Checks the fields of ``imp``, and those that it excludes.

  Args:
    config: see configs/common.py.

  Raises:
    ValueError: one of them is missing, out of range, or set and should not be.
  """
  imp = config.imp
  if imp.rounds is None or not 1 <= imp.rounds < _MOST_ROUNDS:
    raise ValueError(
      f'imp.rounds must be 1 or more and below {_MOST_ROUNDS} for the other '
      f'fields of imp, got {imp.rounds}.'
    )
  if imp.sparsity is None or not 0 < imp.sparsity < 1:
    raise ValueError(
      'imp.sparsity, the fraction of zeros after the last round, must lie '
      f'between 0 and 1, got {imp.sparsity}; 90% is 0.9.'
    )
  method = {k: v for k, v in config.method.items() if v is not None}
  if method != {'name': 'dense'}:
    got = ', '.join(f'method.{k}={v}' for k, v in method.items())
    raise ValueError(
      'imp prunes between its rounds, which need method.name=dense and no '
      f'other field of method, got {got}.'
    )
  fields.duration(config, 'imp.rewind', 1)  # whether it can be one
  keeps = (config.checkpoint_keep_steps, config.checkpoint_keep_epochs)
  if keeps != (None, None):
    raise ValueError(
      'checkpoint_keep is set by imp, to the step that it rewinds to: set '
      'imp.rewind_steps or imp.rewind_epochs in place of it.'
    )


def settings(config: Any, number: int) -> Any:
  """The config of a round, an ordinary run.

  Args:
    config: of all rounds.
    number: of the round; 0 is the dense one.

  Returns:
    A config without ``imp``.
  """
  part = copy.deepcopy(config)
  values = {
    'imp.rounds': None,
    'imp.sparsity': None,
    'imp.rewind_steps': None,
    'imp.rewind_epochs': None,
    'checkpoint_keep_steps': config.imp.rewind_steps,
    'checkpoint_keep_epochs': config.imp.rewind_epochs,
  }
  if number:
    values |= {'method.name': 'frozen', 'init_from': None}
  part.update_from_flattened_dict(values)
  return part


def _finish(
  config: Any,
  directory: pathlib.Path,
  rounds: list[dict[str, Any]],
  command: str,
) -> dict[str, Any]:
  """Writes the folder's own summary and page: the last round's, and more."""
  from str_jax.training import page  # draws with matplotlib: slow to import

  imp = config.imp
  rewind = imp.rewind_steps if imp.rewind_epochs is None else imp.rewind_epochs
  unit = 'steps' if imp.rewind_epochs is None else 'epochs'
  after = '' if rewind is None else f', rewind_{unit}={rewind}'
  summary = records.as_json(
    rounds[-1]
    | {
      'command': command,
      'steps': sum(row['steps'] for row in rounds),
      'seconds': round(sum(row['seconds'] for row in rounds), 2),
      'config': config.to_dict(),
      'method': f'IMP(rounds={imp.rounds}, sparsity={imp.sparsity}{after})',
      'rounds': [{name: row[name] for name in _ROW} for row in rounds],
    }
  )

  def write() -> None:
    last = directory / f'round-{imp.rounds}' / 'metrics.jsonl'
    records.write_text(directory / 'metrics.jsonl', last.read_text())
    records.write_json(directory / 'summary.json', summary)
    page.write(directory)

  distributed.on_first(write)
  finish.show(summary, directory)
  print(f'report: {directory / "report.html"}')
  return summary
