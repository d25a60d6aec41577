"""``python -m str_jax <command>``."""

from __future__ import annotations

import argparse
import importlib
import sys

from str_jax.training.console import outlive_terminal, user_errors

# Names to modules of str_jax.commands: import is no name that Python allows.
COMMANDS = {
  'evaluate': 'evaluate',
  'prepare': 'prepare',
  'report': 'report',
  'snap': 'snap',
  'doctor': 'doctor',
  'import': 'import_',
  'export': 'export',
  'bench': 'bench',
  'sweep': 'sweep',
}


def main(arguments: list[str] | None = None) -> None:
  """Runs a command; a user's error is one sentence and exit code 2.

  Args:
    arguments: of the command line; sys.argv's by default.
  """
  args = parse(sys.argv[1:] if arguments is None else arguments)
  with user_errors():
    args.run(args)


def parse(arguments: list[str]) -> argparse.Namespace:
  """What the command line asks for; ends the program where it cannot be read.

  Args:
    arguments: of the command line.

  Returns:
    The command's arguments, and the command itself as ``run``.
  """
  parser = argparse.ArgumentParser(
    prog='python -m str_jax',
    description='Commands on data and on runs. Training is python main.py '
    '--config=FILE:VARIANT, see its --help.',
  )
  subparsers = parser.add_subparsers(dest='command', required=True)
  asked = [name for name in COMMANDS if name in arguments[:1]]
  for name in asked or COMMANDS:  # each has imports of its own
    module = importlib.import_module(f'str_jax.commands.{COMMANDS[name]}')
    subparser = subparsers.add_parser(
      name, help=module.__doc__, description=module.__doc__
    )
    module.add_arguments(subparser)
    subparser.set_defaults(run=module.run)
  args, rest = parser.parse_known_args(arguments)
  if 'overrides' in args:  # of a config, whose fields are not known here
    args.overrides = [a for a in rest if a.startswith('--config.')]
    rest = [a for a in rest if a not in args.overrides]
  if rest:
    parser.error(f'unrecognized arguments: {" ".join(rest)}')
  return args


if __name__ == '__main__':
  outlive_terminal()
  main()
