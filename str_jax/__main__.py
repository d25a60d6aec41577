"""``python -m str_jax <command>``."""

from __future__ import annotations

import argparse
import importlib

from str_jax.training.flags import fail, one_line

COMMANDS = ('evaluate', 'prepare', 'report')


def main(arguments: list[str] | None = None) -> None:
  """Runs a command; a user's error is one sentence and exit code 2.

  Args:
    arguments: of the command line; sys.argv's by default.
  """
  parser = argparse.ArgumentParser(prog='python -m str_jax', description=None)
  subparsers = parser.add_subparsers(dest='command', required=True)
  for name in COMMANDS:
    module = importlib.import_module(f'str_jax.commands.{name}')
    subparser = subparsers.add_parser(
      name, help=module.__doc__, description=module.__doc__
    )
    module.add_arguments(subparser)
    subparser.set_defaults(run=module.run)
  args = parser.parse_args(arguments)
  try:
    args.run(args)
  except (ValueError, OSError) as error:
    fail(one_line(error))


if __name__ == '__main__':
  main()
