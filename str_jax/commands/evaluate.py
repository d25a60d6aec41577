"""Evaluates a checkpoint of a run and prints accuracy and sparsity."""

import argparse
import pathlib


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  parser.add_argument('directory', type=pathlib.Path, help='folder of a run')
  parser.add_argument(
    '--checkpoint',
    default='last',
    help="'last', 'best' on validation, or a step (default: last)",
  )
  parser.add_argument(
    '--split', default='test', choices=('train', 'validation', 'test')
  )
  parser.add_argument('--data_dir', help='where TFDS sets lie')
  parser.add_argument(
    '--batch_size', type=int, help="examples a step (default: the config's)"
  )


def run(args: argparse.Namespace) -> None:
  """Restores the checkpoint, evaluates it and prints what came out.

  Raises:
    FileNotFoundError: no run there, or its data set is not on this machine.
    ValueError: the checkpoint does not exist or cannot be read.
  """
  from absl import logging

  from str_jax.training import compilation_cache, finish, opened

  logging.set_verbosity(logging.WARNING)  # Orbax tells of every file
  compilation_cache.enable()
  run, stage, state = opened.checkpoint(
    args.directory,
    args.checkpoint,
    data_dir=args.data_dir,
    eval_batch_size=args.batch_size,
  )
  step = int(state.step)
  result = run.evaluate(stage, state.variables, args.split)
  layers = finish.sparsity_report(run, stage, state.variables)
  print(
    f'step {step}, {args.split}: accuracy {result["accuracy"]:.2%}, loss '
    f'{result["loss"]:.4f} over {result["examples"]:,.0f} images; sparsity '
    f'{layers.sparsity:.2%}, {layers.nonzero:,} of {layers.weights:,} weights, '
    f'{layers.flops:,} of {layers.dense_flops:,} multiply-adds'
  )
  if run.dataset.note:
    print(run.dataset.note)
