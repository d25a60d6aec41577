"""What the runs of a sweep are: every value with every other and every seed."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import pathlib
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from str_jax.training import (
  build,
  fields,
  flags,
  records,
  refusal,
  rehearsal,
  workdir,
)

# A comma between parentheses or brackets belongs to the value.
_COMMA = re.compile(r',(?![^()]*\))(?![^\[\]]*\])')

_MOST_SEEDS = 10_000


@dataclasses.dataclass(frozen=True)
class Trial:
  """One run of a sweep.

  Attributes:
    name: of its folder, as ``sparsity=0.9,seed=1``.
    values: of the swept fields, as the command line has them.
    seed: of the run.
    directory: its folder.
    arguments: of main.py.
  """

  name: str
  values: tuple[str, ...]
  seed: int
  directory: pathlib.Path
  arguments: tuple[str, ...]

  @property
  def command(self) -> str:
    """The command that trains it, for a shell."""
    return shlex.join(['python', 'main.py', *self.arguments])

  @property
  def finished(self) -> bool:
    """Whether the run has come to its end."""
    return (self.directory / 'summary.json').exists()


@dataclasses.dataclass(frozen=True)
class Sweep:
  """The runs of a sweep, and whose its folder is.

  Attributes:
    directory: its folder, of the runs' folders.
    labels: from a swept field to its short name.
    owner: what must stay the same for the folder to be this sweep's: the
      config and what is set in it. Values and seeds may be added.
    trials: the runs, those that differ by their seed alone side by side.
  """

  directory: pathlib.Path
  labels: Mapping[str, str]
  owner: records.Record
  trials: tuple[Trial, ...]


def create(
  spec: str,
  overrides: Sequence[str] = (),
  over: Sequence[str] = (),
  seeds: str | None = None,
  out: pathlib.Path | None = None,
  *,
  needs_data: bool = True,
) -> Sweep:
  """Works out the runs of a sweep, and checks all of their configs.

  What the first step of a run would refuse is refused here, see
  :func:`str_jax.training.rehearsal.check`.

  Args:
    spec: a config file, and a variant of it after a colon.
    overrides: arguments ``--config.FIELD=VALUE``, the same for all runs.
    over: texts ``FIELD=VALUE,VALUE``.
    seeds: ``3`` for 0, 1 and 2, ``3,7`` for these; None for the config's own.
    out: the folder; None for one under runs/.
    needs_data: whether the data sets have to be on this machine.

  Returns:
    The sweep; nothing is written.

  Raises:
    ValueError: a field, a value, a seed or a folder that cannot be used.
    FileNotFoundError: a budget file, a data set or what a run starts from is
      missing.
  """
  config, changes = flags.load_config(spec, overrides)
  swept = _swept(over, changes)
  numbers = _seeds(seeds, config, changes)
  labels = _labels(list(swept))
  kept = {k: v for k, v in changes.items() if k not in fields.FREE}
  out = out or pathlib.Path(
    '-'.join([flags.default_workdir(config, kept), 'sweep', *labels.values()])
  )
  owner = {'config': spec, 'overrides': kept, 'fields': list(swept)}
  _check_folder(out, owner)
  trials = []
  configs: dict[str, str] = {}
  new: dict[tuple[str, ...], tuple[str, Any, Mapping[str, Any]]] = {}
  for values in itertools.product(*swept.values()):
    for seed in numbers:
      name = _name([*labels.values(), 'seed'], [*values, str(seed)])
      sets = [
        f'--config.{field}={value}'
        for field, value in zip([*swept, 'seed'], [*values, seed])
        if field != 'seed' or seeds is not None
      ]
      directory = out / name
      settings = _check_run(spec, [*overrides, *sets], directory, configs)
      if not (directory / 'config.json').exists():  # a begun one was checked
        new.setdefault(values, (name, *settings))  # seeds change nothing
      arguments = f'--config={spec}', *overrides, *sets
      trials.append(
        Trial(
          name, values, seed, directory, (*arguments, f'--workdir={directory}')
        )
      )
  for run in new.values():  # last: each takes a while
    _rehearse(spec, *run, needs_data)
  return Sweep(out, labels, owner, tuple(trials))


def split(text: str) -> list[str]:
  """Values with commas between them; those in parentheses stay together.

  Args:
    text: as the command line has it.

  Returns:
    The values.

  >>> split('0.8,0.90')
  ['0.8', '0.90']
  >>> split('(80,120),(60,90,120)')
  ['(80,120)', '(60,90,120)']
  """
  return [value.strip() for value in _COMMA.split(text)]


def _swept(
  over: Sequence[str], changes: Mapping[str, Any]
) -> dict[str, list[str]]:
  """From a field to its values."""
  swept: dict[str, list[str]] = {}
  for text in over:
    field, equals, values = text.partition('=')
    field = field.removeprefix('config.')
    if field in swept:
      raise ValueError(
        f'--over={field} is given twice: name all its values in one.'
      )
    if field == 'seed':
      raise ValueError('--over=seed: give the seeds as --seeds=3 or 3,7,11.')
    if field in changes:
      raise ValueError(
        f'{field} is both set by --config.{field} and swept by --over: leave '
        'one out.'
      )
    swept[field] = split(values)
    if not field or not equals or not all(swept[field]):
      raise ValueError(
        '--over needs a field and values with commas between them, as '
        f'method.sparsity=0.8,0.9, got {text!r}.'
      )
  return swept


def _seeds(
  text: str | None, config: Any, changes: Mapping[str, Any]
) -> list[int]:
  """The seeds: so many from 0 on, or those of a list."""
  if text is None:
    return [config.seed]
  if 'seed' in changes:
    raise ValueError(
      'the seed is both set by --config.seed and swept by --seeds: leave one '
      'out.'
    )
  try:
    numbers = [int(number) for number in text.split(',')]
  except ValueError:
    numbers = []
  if len(numbers) == 1 and numbers[0] > _MOST_SEEDS:
    raise ValueError(
      f'--seeds={text} asks for more than {_MOST_SEEDS} seeds: a single one is '
      f'set by --config.seed={text}.'
    )
  if len(numbers) == 1 and numbers[0] > 0:
    return list(range(numbers[0]))
  if len(numbers) < 2 or len(set(numbers)) < len(numbers) or min(numbers) < 0:
    raise ValueError(
      '--seeds needs how many, as 3 for the seeds 0, 1 and 2, or different '
      f'ones with commas between them, as 3,7,11, got {text!r}; a single one '
      'is set by --config.seed.'
    )
  return numbers


def _labels(names: list[str]) -> dict[str, str]:
  """Fields by short names: the last part, where it tells them apart.

  >>> _labels(['method.sparsity', 'model.name'])
  {'method.sparsity': 'sparsity', 'model.name': 'model'}
  >>> list(_labels(['method.sparsity', 'imp.sparsity']).values())
  ['method.sparsity', 'imp.sparsity']
  """
  short = {name: name.removesuffix('.name').split('.')[-1] for name in names}
  count = collections.Counter(short.values())
  return {n: s if count[s] == 1 else n for n, s in short.items()}


def _name(labels: Sequence[str], values: Sequence[str]) -> str:
  pairs = (f'{name}={value}' for name, value in zip(labels, values))
  return ','.join(pairs).replace('/', '_')


def _check_folder(out: pathlib.Path, owner: records.Record) -> None:
  if out.exists() and not out.is_dir():
    raise ValueError(f'--out must be a folder, but {out} is a file.')
  if (out / 'config.json').exists():
    raise ValueError(
      f'--out must be the folder of a sweep, but {out} is that of a run: name '
      'another.'
    )
  if not any(out.glob('*/config.json')):
    return  # no run has begun: a mistake may be mended
  if not (out / 'sweep.json').exists():
    return  # they were started by the commands of --print
  theirs = records.read_json(out / 'sweep.json')
  differences = [
    f'{name} {ours or "none"} (there: {theirs.get(name) or "none"})'
    for name, ours in json.loads(json.dumps(owner)).items()  # tuples as lists
    if ours != theirs.get(name)
  ]
  if differences:
    raise ValueError(
      f'{out} belongs to another sweep: {", ".join(differences)}. Choose '
      'another --out.'
    )


def _check_run(
  spec: str,
  overrides: Sequence[str],
  directory: pathlib.Path,
  configs: dict[str, str],
) -> tuple[Any, Mapping[str, Any]]:
  """Checks a run's fields and folder, and that no other run is the same.

  Args:
    spec: of the config.
    overrides: all that is set in it.
    directory: the run's folder.
    configs: from the settings of the runs before it to their names; this
      one's are added.

  Returns:
    Its config, and what is set in it.
  """
  config, changes = flags.load_config(spec, overrides)
  build.inline_budget(config, directory)
  workdir.check(directory, config)
  settings = config.to_json_best_effort()
  if settings in configs:
    raise ValueError(
      f'{configs[settings]} and {directory.name} are the same run: name every '
      'value once.'
    )
  if directory.name in configs.values():
    raise ValueError(
      f'two runs would share the folder {directory.name}: rename the files '
      'that --over names.'
    )
  configs[settings] = directory.name
  return config, changes


def _rehearse(
  spec: str,
  name: str,
  config: Any,
  changes: Mapping[str, Any],
  needs_data: bool,
) -> None:
  """Checks the rest of a run, and says which it is."""
  try:
    with refusal.told(spec, changes):
      rehearsal.check(config, needs_data)
  except (ValueError, FileNotFoundError) as error:
    raise ValueError(f'{name}: {error}') from error
