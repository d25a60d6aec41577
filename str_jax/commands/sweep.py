"""Trains a config with several values and seeds; ends in one table."""

import argparse
import pathlib
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  parser.add_argument(
    '--config',
    metavar='FILE[:VARIANT]',
    required=True,
    help='as main.py takes it; --config.FIELD=VALUE sets a field of all runs',
  )
  parser.add_argument(
    '--over',
    metavar='FIELD=VALUE,...',
    action='append',
    default=[],
    help='a field and its values: method.sparsity=0.8,0.9. A value that has '
    'commas stands in parentheses: schedule.boundaries_epochs=(80,120),(60,90)'
    '. Given several times: every value with every other',
  )
  parser.add_argument(
    '--seeds',
    help='how many, 3 for the seeds 0, 1 and 2, or which: 3,7,11 (default: '
    "the config's own)",
  )
  parser.add_argument(
    '--out', type=pathlib.Path, help='folder of the sweep (default: in runs/)'
  )
  parser.add_argument(
    '--print',
    action='store_true',
    help='print the commands of the runs that are not finished, and end',
  )
  parser.set_defaults(overrides=[])  # main fills them in


def run(args: argparse.Namespace) -> None:
  """Trains what is not finished, and makes the table of what is.

  Raises:
    ValueError: a field, a value, a seed or a folder that cannot be used.
    FileNotFoundError: there is no main.py here.
    OSError: the folder cannot be written.
    SystemExit: some runs are not finished; its code is 1.
  """
  # Late: the other commands do not need them.
  import jax

  # What is checked needs no accelerator, and the runs want it for themselves.
  jax.config.update('jax_platforms', 'cpu')
  from str_jax.training import records, sweep_runs, sweep_table, sweeps

  sweep = sweeps.create(
    args.config,
    args.overrides,
    args.over,
    args.seeds,
    args.out,
    needs_data=not args.print,
  )
  if args.print:
    for trial in sweep.trials:
      if not trial.finished:
        print(trial.command)
    return
  if not pathlib.Path('main.py').is_file():
    raise FileNotFoundError(
      'sweep starts main.py, which is not in this folder: give the command in '
      "the folder of str_jax's checkout, or use --print."
    )
  with records.writing(sweep.directory):
    sweep.directory.mkdir(parents=True, exist_ok=True)
  sweep_table.write(sweep, {})
  unfinished = sweep_runs.run_all(sweep, lambda: sweep_table.write(sweep, {}))
  sweep_table.write(sweep, unfinished)
  sweep_table.show(sweep, unfinished)
  done = [trial.directory for trial in sweep.trials if trial.finished]
  if done:
    from str_jax.training import runs_page  # draws: slow to import

    print(f'report: {runs_page.write(done, sweep.directory / "report.html")}')
  if unfinished:
    print(
      f'{len(unfinished)} of {len(sweep.trials)} runs are not finished: the '
      'same command goes on with them.',
      file=sys.stderr,
    )
    raise SystemExit(1)
