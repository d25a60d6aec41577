"""``python -m str_jax <command>``."""

from __future__ import annotations

import argparse
import importlib
import sys

from str_jax.training.console import outlive_terminal, user_errors

COMMANDS = ('evaluate', 'prepare', 'report')


def main(arguments: list[str] | None = None) -> None:
  """Runs a command; a user's error is one sentence and exit code 2.

  Args:
    arguments: of the command line; sys.argv's by default.
  """
  parser = argparse.ArgumentParser(prog='python -m str_jax', description=None)
  subparsers = parser.add_subparsers(dest='command', required=True)
  arguments = sys.argv[1:] if arguments is None else arguments
  asked = [name for name in COMMANDS if name in arguments[:1]]
  for name in asked or COMMANDS:  # each has imports of its own
    module = importlib.import_module(f'str_jax.commands.{name}')
    subparser = subparsers.add_parser(
      name, help=module.__doc__, description=module.__doc__
    )
    module.add_arguments(subparser)
    subparser.set_defaults(run=module.run)
  args = parser.parse_args(arguments)
  with user_errors():
    args.run(args)


if __name__ == '__main__':
  outlive_terminal()
  main()
