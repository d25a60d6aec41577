"""Prunes a trained network to a target without training it."""

import argparse
import pathlib
import shlex
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  parser.add_argument('directory', type=pathlib.Path, help='folder of a run')
  target = parser.add_mutually_exclusive_group(required=True)
  target.add_argument(
    '--target', type=float, help='fraction of zeros over all weights: 0.9'
  )
  target.add_argument('--nonzero', type=int, help='number of weights kept')
  target.add_argument(
    '--flops', type=float, help='fraction of multiply-adds kept: 0.05'
  )
  target.add_argument('--madds', type=int, help='number of multiply-adds kept')
  parser.add_argument(
    '--checkpoint',
    default='last',
    help="'last', 'best' on validation, or a step (default: last)",
  )
  parser.add_argument(
    '--out',
    type=pathlib.Path,
    help='folder of the pruned network (default: DIRECTORY-snap-TARGET)',
  )
  parser.add_argument(
    '--norm_batches',
    type=int,
    default=50,
    help="of training images, to re-estimate BatchNorm's statistics with; 0 "
    'leaves them (default: 50)',
  )
  parser.add_argument('--data_dir', help='where TFDS sets lie')


def run(args: argparse.Namespace) -> None:
  """Prunes, evaluates, writes the new folder and prints what it cost.

  Raises:
    FileNotFoundError: no run there, or its data set is not on this machine.
    ValueError: a target out of reach or met already, a folder that is there,
      or a checkpoint that cannot be read.
  """
  from absl import logging

  from str_jax.training import compilation_cache, opened, snap

  logging.set_verbosity(logging.WARNING)  # Orbax tells of every file
  compilation_cache.enable()
  asked = {
    name: value
    for name, value in (
      ('sparsity', args.target),
      ('nonzero', args.nonzero),
      ('flops', args.flops),
      ('madds', args.madds),
    )
    if value is not None
  }
  snap.check(asked, args.norm_batches)
  out = args.out or snap.folder(args.directory, asked)
  if out.exists():
    raise ValueError(
      f'{out} is to hold the pruned network, but is there already: name '
      'another folder by --out.'
    )
  run, stage, state = opened.checkpoint(
    args.directory, args.checkpoint, data_dir=args.data_dir
  )
  command = shlex.join(['python', '-m', 'str_jax', *sys.argv[1:]])
  snap.snap(run, stage, state, asked, out, args.norm_batches, command)
