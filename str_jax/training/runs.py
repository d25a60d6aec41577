"""What finished runs left in their folders, read with care and set side by
side: which differ in their seed alone, and what that gives in the mean.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from str_jax.training import fields, summaries

METHODS = {
  'dense': 'dense',
  'str': 'STR',
  'str_group': 'STR, filters',
  'st3': 'ST-3',
  'st3_sigma': 'ST-3 sigma',
  'feather': 'Feather',
  'gmp': 'GMP',
  'dnw': 'DNW',
}


@dataclasses.dataclass(frozen=True)
class Run:
  """A finished run.

  Attributes:
    name: of its folder, as short as tells it from the others.
    summary: of `summary.json`.
    metrics: of `metrics.jsonl`.
  """

  name: str
  summary: Mapping[str, Any]
  metrics: Sequence[Mapping[str, Any]]

  @property
  def network(self) -> tuple[str, int, int]:
    """What sparsity and FLOPs are shares of: model, weights, FLOPs."""
    s = self.summary
    return s['model'], s['weights'], s['dense_flops']

  @property
  def method(self) -> str:
    """The method as the papers call it."""
    said = self.summary['method'].partition('(')[0]
    if said == 'IMP':
      return said
    name = self._method_name
    target = self.summary.get('target') if name == 'str' else None
    return METHODS.get(name, said) + (', target' if target else '')

  @property
  def seed(self) -> Any:
    """The seed, where the config has one."""
    return self.summary['config'].get('seed')

  @property
  def settings(self) -> str:
    """All settings that change its numbers, but the seed; equal or not."""
    left_out = ('seed', *fields.FREE)
    config = self.summary['config']
    kept = {name: v for name, v in config.items() if name not in left_out}
    own = [self.summary['dataset'], self.network, _set(kept)]
    if self._method_name == 'frozen' or self.summary['steps'] == 0:
      # Snapped, a round of IMP, or imported: what pruned it is in no config.
      own.append(self.summary['nonzero'])
    return json.dumps(own, sort_keys=True)

  @property
  def _method_name(self) -> str:
    method = self.summary['config'].get('method')
    return str(method.get('name') if isinstance(method, dict) else None)


def read(workdirs: Iterable[pathlib.Path]) -> tuple[list[Run], list[str]]:
  """Reads the folders of runs.

  Args:
    workdirs: the folders, each named once.

  Returns:
    The finished runs in the order given, those of the same settings together;
    and sentences on what a reader must know of them.

  Raises:
    FileNotFoundError: a folder is that of no run.
    ValueError: no run is finished, or a file of one is damaged.
  """
  folders = list(workdirs)
  if len({folder.resolve() for folder in folders}) < len(folders):
    raise ValueError(
      'a folder is named twice, and would count as two runs: name it once.'
    )
  unfinished, runs = [], []
  for folder, name in zip(folders, names(folders), strict=True):
    if (folder / 'summary.json').is_file():
      runs.append(Run(name, *summaries.read(folder)))
    elif (folder / 'config.json').is_file():
      unfinished.append(name)
    else:
      raise FileNotFoundError(
        f'{folder} is no run: it has neither summary.json nor config.json; '
        'name folders of training runs.'
      )
  if not runs:
    raise ValueError(
      f'no run is finished ({", ".join(unfinished) or "none is named"}): give '
      'the training command again, which goes on with it.'
    )
  together = [run for group in groups(runs) for run in group]
  return together, _notes(together, unfinished)


def names(folders: Sequence[pathlib.Path]) -> list[str]:
  """The folders' names, with as much of their paths as tells them apart.

  Args:
    folders: paths.

  Returns:
    A name for each.

  >>> names([pathlib.Path('/a/0.9/seed0'), pathlib.Path('/a/0.8/seed0')])
  ['0.9/seed0', '0.8/seed0']
  """
  parts = [folder.resolve().parts for folder in folders]
  for count in range(1, max(map(len, parts), default=1)):
    short = ['/'.join(part[-count:]) for part in parts]
    if len(set(short)) == len(short):
      return short
  return [str(folder.resolve()) for folder in folders]


def groups(runs: Iterable[Run]) -> list[list[Run]]:
  """The runs that differ in their seed alone, together; in their order."""
  found: dict[str, list[Run]] = {}
  for run in runs:
    found.setdefault(run.settings, []).append(run)
  return list(found.values())


def mean(runs: Sequence[Run], name: str) -> tuple[float, float]:
  """A number of the summaries over runs.

  Args:
    runs: of the same settings.
    name: of the number.

  Returns:
    The mean, and the standard deviation of a sample (n - 1): 0 of one run;
    NaN where a run lacks the number.
  """
  values = [summaries.finite(run.summary[name]) for run in runs]
  if any(map(math.isnan, values)):
    return math.nan, math.nan
  spread = statistics.stdev(values) if len(values) > 1 else 0.0
  return statistics.fmean(values), spread


def networks(runs: Iterable[Run]) -> dict[tuple[str, int, int], str]:
  """The networks of the runs and how to call them.

  Args:
    runs: of any networks.

  Returns:
    A name for each network: the model's, with its number of weights and
    multiply-adds where these alone tell it from another.
  """
  found = dict.fromkeys(run.network for run in runs)
  models = [model for model, *_ in found]
  return {
    key: model
    if models.count(model) == 1
    else f'{model} ({weights:,} weights, {flops:,} multiply-adds)'
    for key in found
    for model, weights, flops in [key]
  }


def _set(config: Mapping[str, Any]) -> dict[str, Any]:
  """The fields that are set: an older config lacks new ones."""
  return {
    name: _set(value) if isinstance(value, dict) else value
    for name, value in config.items()
    if value is not None
  }


def _notes(runs: Sequence[Run], unfinished: Sequence[str]) -> list[str]:
  """What a reader must know before comparing."""
  said = []
  if unfinished:
    said.append(
      f'Not finished and left out: {", ".join(unfinished)}. The same training '
      'command again goes on with it.'
    )
  if unknown := [run.name for run in runs if run.summary['top1'] is None]:
    said.append(
      f'Not evaluated, so without a point: {", ".join(unknown)}. '
      '`python -m str_jax evaluate` does it.'
    )
  nets = networks(runs)
  if len(nets) > 1:
    each = '; '.join(
      f'{model} with {weights:,} weights and {flops:,} multiply-adds'
      for model, weights, flops in nets
    )
    said.append(
      f'{len(nets)} networks, each with denominators of its own: {each}.'
    )
  if len(sets := dict.fromkeys(run.summary['dataset'] for run in runs)) > 1:
    said.append(
      f'{len(sets)} data sets, each with pictures of its own: '
      f'{", ".join(sets)}.'
    )
  for group in groups(runs):
    if len({str(run.seed) for run in group}) < len(group):
      same = ', '.join(run.name for run in group)
      said.append(
        f'Of {same} some have the same settings and the same seed: they are '
        'no independent runs, and the deviation comes out too small.'
      )
  notes = dict.fromkeys(str(run.summary['note'] or '') for run in runs)
  return said + [note for note in notes if note]
