"""The command line of main.py: errors are one sentence and exit code 2."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib.machinery
import json
import math
import pathlib
import shlex
import sys
import textwrap
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import flags, logging
from ml_collections import ConfigDict, FieldReference

from str_jax.training import fields, usage
from str_jax.training.console import (
  fail,
  hush_libraries,
  one_line,
  user_errors,
)

_FROM_THE_FILE = ('name', 'variant')  # fields that the command line leaves


def define() -> None:
  """Defines --config and --workdir."""
  flags.DEFINE_string(
    'config',
    None,
    'Config file, and a variant of it: configs/resnet50.py:str-90.23. '
    '--config.FIELD=VALUE sets a field.',
  )
  flags.DEFINE_string(
    'workdir', None, 'Folder of the run; the same again resumes it.'
  )
  flags.DEFINE_string(
    'coordinator',
    None,
    'HOST:PORT of the first of several processes; on a TPU pod or under SLURM '
    'they find each other by themselves.',
  )
  flags.DEFINE_integer('num_processes', None, 'Processes of the run.')
  flags.DEFINE_integer('process_index', None, 'Of this one, from 0.')


def parse(args: Sequence[str]) -> list[str]:
  """Parses the command line.

  Args:
    args: as in sys.argv.

  Returns:
    The program's name, and the arguments that set fields of the config.

  Raises:
    SystemExit: they ask for help, or are none that main.py has.
  """
  if any(a in ('-h', '-help', '--help', '--helpfull') for a in args[1:]):
    print(usage.text())
    raise SystemExit(0)
  overrides = [a for a in args if a.startswith(('--config.', '-config.'))]
  try:
    rest = flags.FLAGS([a for a in args if a not in overrides])
  except flags.Error as error:
    fail(
      f'{one_line(error)}; the flags are --config, --config.FIELD, --workdir, '
      'and of several processes --coordinator, --num_processes and '
      '--process_index.'
    )
  if len(rest) > 1:
    fail(
      f'unknown argument {rest[1]!r}: write --FLAG=VALUE, as '
      '--config=configs/digits.py.'
    )
  if not flags.FLAGS.config:
    fail('a config is needed: --config=configs/digits.py.')
  return [rest[0], *overrides]


def run(
  spec: str,
  overrides: Sequence[str],
  workdir: str | None,
  processes: tuple[str | None, int | None, int | None] = (None, None, None),
) -> None:
  """Trains, and turns a user's error into one sentence and exit code 2.

  Args:
    spec: a config file, and a variant of it after a colon.
    overrides: arguments ``--config.FIELD=VALUE``.
    workdir: the folder of the run, or None for one under runs/.
    processes: coordinator, number of processes and index of this one.
  """
  logging.set_verbosity(logging.WARNING)  # Orbax tells of every file
  hush_libraries()
  with contextlib.ExitStack() as leaving, user_errors():
    config, changes = load_config(spec, overrides)
    # Now only: slow to import.
    from str_jax.training import (
      build,
      compilation_cache,
      distributed,
      imp,
      loop,
      refusal,
    )

    leaving.enter_context(distributed.leaving())
    distributed.start(*processes)
    compilation_cache.enable()
    build.inline_budget(config, workdir)
    if 'method.budget' in changes:  # what it says, not where it stood
      changes['method.budget'] = config.method.budget
    in_rounds = any(value is not None for value in config.imp.values())
    train = imp.train if in_rounds else loop.train
    directory = pathlib.Path(workdir or default_workdir(config, changes))
    with distributed.losing(), refusal.told(spec, changes):
      train(config, directory, shlex.join(['python', *sys.argv]))


def load_config(
  spec: str, overrides: Sequence[str] = ()
) -> tuple[ConfigDict, dict[str, Any]]:
  """Reads a config file and sets fields of it.

  A length that is set in steps takes the place of the one in epochs that the
  file has, and the other way round.

  Args:
    spec: a Python file with ``get_config(variant)``, and after a colon the
      variant: ``configs/resnet50.py:str-90.23``.
    overrides: arguments ``--config.FIELD=VALUE``; a field may be dotted.

  Returns:
    The config, and the values set by dotted name.

  Raises:
    ValueError: no such file, variant or field, or a value of another type.
  """
  path, _, variant = spec.partition(':')
  config = _read(pathlib.Path(path), variant)
  changes = dict(_override(config, text) for text in overrides)
  units = {'_steps': '_epochs', '_epochs': '_steps'}
  known = set(_fields(config))
  for name in changes:
    for unit, other in units.items():
      twin = name.removesuffix(unit) + other
      if name.endswith(unit) and twin in known and twin not in changes:
        config.update_from_flattened_dict({twin: None})
  config.update_from_flattened_dict(changes)
  return config, changes


def default_workdir(config: ConfigDict, changes: dict[str, Any]) -> str:
  """runs/<config>-<variant>, with a hash of the changes if there are any.

  Args:
    config: the config.
    changes: what the command line sets.

  Returns:
    The folder's path.
  """
  name = f'{config.name}-{config.variant}'
  # A run may go on with other ones of these.
  changes = {k: v for k, v in changes.items() if k not in fields.FREE}
  if changes:
    text = json.dumps(changes, sort_keys=True)
    name += '-' + hashlib.sha256(text.encode()).hexdigest()[:8]
  return f'runs/{name}'


def _read(path: pathlib.Path, variant: str) -> ConfigDict:
  """What the file's get_config returns for a variant."""
  if not path.is_file():
    folder = path.parent if path.parent.name else pathlib.Path('configs')
    known = [
      str(p)
      for p in sorted(folder.glob('*.py'))
      if 'def get_config(variant' in p.read_text()
    ]
    hint = f'; there is {", ".join(known)}' if known else ''
    raise ValueError(f'--config needs a file, but there is no {path}{hint}.')
  loader = importlib.machinery.SourceFileLoader('config', str(path))
  module = types.ModuleType(loader.name)
  try:
    loader.exec_module(module)
    config = module.get_config(variant or None)
    if isinstance(config, ConfigDict):
      return config
    raise TypeError(f'it returns a {type(config).__name__}')
  except ValueError:
    raise  # an unknown variant: the sentence says so
  except Exception as error:  # the file may do anything
    text = textwrap.shorten(str(error), 200, placeholder=' ...')
    raise ValueError(
      f'{path} is not a config, with get_config(variant): '
      f'{type(error).__name__}: {text}'
    ) from error


def _override(config: ConfigDict, text: str) -> tuple[str, Any]:
  """The field and the value of an argument --config.FIELD=VALUE."""
  name, equals, value = text.partition('=')
  name = name.lstrip('-').removeprefix('config.')
  if name in _FROM_THE_FILE:
    raise ValueError(
      f'--config.{name} cannot be set: name and variant are chosen by '
      '--config=FILE:VARIANT.'
    )
  group, field = _innermost(config, name)
  if field not in group.keys():
    raise ValueError(_unknown(config, name))
  if isinstance(group[field], ConfigDict):
    raise ValueError(
      f'--config.{name} is a group, of {", ".join(group[field])}: set one of '
      f'these, as --config.{name}.name.'
    )
  if not equals:
    raise ValueError(f'--config.{name} needs a value: --config.{name}=VALUE.')
  references = dict(group.items(preserve_field_references=True))
  may_be_none = isinstance(references[field], FieldReference)
  if may_be_none and value == 'None':
    return name, None
  field_type = group.get_type(field)
  if field_type not in _TYPES:
    raise ValueError(
      f'--config.{name} is a {field_type.__name__}, which only the config file '
      'can set.'
    )
  convert, wanted = _TYPES[field_type]
  try:
    return name, convert(value)
  except ValueError as error:
    wanted += ' or None' if may_be_none else ''
    raise ValueError(
      f'--config.{name} needs {wanted}, got {value!r}.'
    ) from error


def _unknown(config: ConfigDict, name: str) -> str:
  """Says that there is no such field, and which there are."""
  last = name.split('.')[-1]
  by_last = {known.split('.')[-1]: known for known in _fields(config)}
  close = difflib.get_close_matches(last, by_last, n=1)
  hint = f' (did you mean {by_last[close[0]]}?)' if close else ''
  group, rest = _innermost(config, name)
  where = name.removesuffix(rest).rstrip('.') or 'the config'
  known = [
    f'{field}.*' if isinstance(group[field], ConfigDict) else field
    for field in group
    if group is not config or field not in _FROM_THE_FILE
  ]
  return f'there is no field {name}{hint}; {where} has {", ".join(known)}.'


def _innermost(config: ConfigDict, name: str) -> tuple[ConfigDict, str]:
  """The last group on the way to a dotted name, and the rest of the name."""
  group, rest = config, name
  while '.' in rest:
    part, _, after = rest.partition('.')
    if not isinstance(group.get(part), ConfigDict):
      break
    group, rest = group[part], after
  return group, rest


def _fields(config: ConfigDict, prefix: str = '') -> Iterator[str]:
  """The dotted names of all fields."""
  for name, value in config.items():
    if isinstance(value, ConfigDict):
      yield from _fields(value, f'{prefix}{name}.')
    else:
      yield prefix + name


def _number(text: str) -> float:
  value = float(text)
  if not math.isfinite(value):
    raise ValueError('not a finite number')
  return value


def _numbers(text: str) -> tuple[float, ...]:
  inside = text.strip('()[] ').rstrip(', ')
  return tuple(_number(n) for n in inside.split(',')) if inside else ()


_TYPES: dict[type, tuple[Callable[[str], Any], str]] = {
  bool: (flags.BooleanParser().parse, 'true or false'),
  int: (int, 'a whole number'),
  float: (_number, 'a number'),
  str: (str, 'a text'),
  tuple: (_numbers, 'numbers with commas between them'),
}
