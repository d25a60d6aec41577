"""The flags of main.py: errors are one sentence and exit code 2."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import sys
from typing import Any

from absl import flags, logging
from ml_collections import config_flags

_USER_ERRORS = (ValueError, FileNotFoundError, PermissionError)


def define() -> flags.FlagHolder:
  """Defines --config and --workdir.

  Returns:
    The holder of the config.
  """
  flags.DEFINE_string(
    'workdir', None, 'Folder of the run; the same again resumes it.'
  )
  return config_flags.DEFINE_config_file(
    'config',
    None,
    'Config file, and a variant of it: configs/resnet50.py:str-90.23.',
    lock_config=True,
  )


def parse(args: list[str]) -> list[str]:
  """Parses the command line.

  Args:
    args: as in sys.argv.

  Returns:
    What is left after the flags: the program's name.
  """
  _check_config_file(args)
  try:
    rest = flags.FLAGS(args)
  except Exception as error:  # a config file may raise anything
    fail(_sentence(error))
  if len(rest) > 1:
    fail(f'unknown argument {rest[1]!r}: flags begin with --, as --config=.')
  if flags.FLAGS['config'].value is None:
    fail('a config is needed: --config=configs/digits.py.')
  return rest


def run(config: Any, workdir: str | None) -> None:
  """Trains, and turns a user's error into one sentence and exit code 2.

  Args:
    config: the parsed config.
    workdir: the folder of the run, or None for one under runs/.
  """
  from str_jax.training import loop  # after the flags: it is slow to import

  logging.set_verbosity(logging.WARNING)  # Orbax tells of every file
  directory = pathlib.Path(workdir or default_workdir(config))
  try:
    loop.train(config, directory)
  except _USER_ERRORS as error:
    if os.environ.get('STR_JAX_TRACEBACK'):
      raise
    fail(_sentence(error))


def default_workdir(config: Any) -> str:
  """runs/<config>-<variant>, with a hash of the overrides if there are any.

  Args:
    config: the parsed config.

  Returns:
    The folder's path.
  """
  name = f'{config.name}-{config.variant}'
  overrides = config_flags.get_override_values(flags.FLAGS['config'])
  if overrides:
    text = json.dumps(overrides, sort_keys=True, default=str)
    name += '-' + hashlib.sha256(text.encode()).hexdigest()[:8]
  return f'runs/{name}'


def fail(sentence: str) -> None:
  """Prints a sentence on standard error and ends with exit code 2."""
  print(f'error: {sentence}', file=sys.stderr)
  raise SystemExit(2)


def _check_config_file(args: list[str]) -> None:
  """A missing config file is named before ml_collections sees it."""
  for i, arg in enumerate(args[1:], 1):
    name, _, value = arg.lstrip('-').partition('=')
    if name != 'config' or not arg.startswith('-'):
      continue
    if not value and i + 1 < len(args):
      value = args[i + 1]
    path = pathlib.Path(value.partition(':')[0])
    if not path.is_file():
      known = sorted(p.stem for p in path.parent.glob('[!_]*.py'))
      known = [p for p in known if p != 'common']
      hint = f'; {path.parent} holds {", ".join(known)}' if known else ''
      fail(f'--config must be a file, but there is no {path}{hint}.')


def _sentence(error: BaseException) -> str:
  """An error as one line: ml_collections spreads its own over many."""
  text = ' '.join(str(error).split())
  return text or type(error).__name__
