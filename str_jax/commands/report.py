"""Writes report.html of a finished run anew and prints its table."""

import argparse
import pathlib


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  parser.add_argument('directory', type=pathlib.Path, help='folder of a run')
  parser.add_argument(
    '--csv', type=pathlib.Path, help='also write the table by layer as CSV'
  )
  parser.add_argument(
    '--markdown',
    type=pathlib.Path,
    help='also write the table by layer as Markdown',
  )
  parser.add_argument(
    '--budget',
    type=pathlib.Path,
    help='also write the sparsity of every layer as a budget, which another '
    'run takes as --config.method.budget',
  )


def run(args: argparse.Namespace) -> None:
  """Writes the page and the tables.

  Raises:
    FileNotFoundError: the folder is not that of a finished run.
    ValueError: a file of the run is damaged.
  """
  # Late: the other commands do not need them.
  from str_jax import budgets, report
  from str_jax.training import finish, page, records

  summary = records.read_json(args.directory / 'summary.json')
  path = page.write(args.directory)
  layers = report.from_dicts(summary['layers'])
  if args.csv:
    records.write_text(args.csv, layers.to_csv())
  if args.markdown:
    records.write_text(args.markdown, layers.to_markdown())
  if args.budget:
    budgets.write_csv(args.budget, budgets.from_report(layers))
  finish.show(summary)
  print(f'report: {path}')
