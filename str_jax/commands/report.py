"""Writes the page of a finished run anew, or one page of several runs."""

import argparse
import pathlib
from collections.abc import Sequence


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  parser.add_argument(
    'directory',
    type=pathlib.Path,
    nargs='+',
    help='folder of a run; several are compared on one page',
  )
  parser.add_argument(
    '--out',
    type=pathlib.Path,
    help='of several runs: the page to write, runs.html by default; the page '
    'of one run is report.html in its folder',
  )
  parser.add_argument(
    '--csv',
    type=pathlib.Path,
    help='of one run: also write the table by layer as CSV',
  )
  parser.add_argument(
    '--markdown',
    type=pathlib.Path,
    help='of one run: also write the table by layer as Markdown',
  )
  parser.add_argument(
    '--budget',
    type=pathlib.Path,
    help='of one run: also write the sparsity of every layer as a budget, '
    'which another run takes as --config.method.budget',
  )


def run(args: argparse.Namespace) -> None:
  """Writes the page and the tables.

  Raises:
    FileNotFoundError: a folder is not that of a finished run.
    ValueError: a file of a run is damaged, or an argument is not for as many
      runs as are named.
  """
  if len(args.directory) == 1:
    if args.out:
      raise ValueError(
        '--out is for several runs, got one: its page is report.html in its '
        'folder.'
      )
    return _one(args, args.directory[0])
  for name in ('csv', 'markdown', 'budget'):
    if getattr(args, name):
      raise ValueError(
        f'--{name} is for one run, got {len(args.directory)}: name one folder.'
      )
  _several(args.directory, args.out or pathlib.Path('runs.html'))


def _one(args: argparse.Namespace, directory: pathlib.Path) -> None:
  # Late: the other commands do not need them.
  from str_jax import budgets, report
  from str_jax.training import finish, page, records, summaries

  summary, _ = summaries.read(directory)
  path = page.write(directory)
  layers = report.from_dicts(summary['layers'])
  if args.csv:
    records.write_text(args.csv, layers.to_csv())
  if args.markdown:
    records.write_text(args.markdown, layers.to_markdown())
  if args.budget:
    budgets.write_csv(args.budget, budgets.from_report(layers))
  finish.show(summary, directory)
  print(f'report: {path}')


def _several(directories: Sequence[pathlib.Path], out: pathlib.Path) -> None:
  from str_jax.training import records, runs, runs_page  # as above

  found, notes = runs.read(directories)
  records.write_text(out, runs_page.text(found, notes))
  for note in notes:
    print(note)
  print(f'report of {len(found)} runs: {out}')
