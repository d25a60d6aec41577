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
  from ml_collections import ConfigDict

  from str_jax.training import (
    compilation_cache,
    finish,
    integrity,
    loop,
    records,
  )

  logging.set_verbosity(logging.WARNING)  # Orbax tells of every file
  compilation_cache.enable()
  path = args.directory / 'config.json'
  config = ConfigDict(records.read_json(path))
  if args.data_dir is not None:
    config.data_dir = args.data_dir
  if args.batch_size is not None:
    config.eval_batch_size = args.batch_size
  try:
    run = loop.Run(config, args.directory)
  except AttributeError as error:
    if not isinstance(error.args[0], KeyError):  # not for want of a field
      raise
    raise ValueError(
      f'{path} lacks {error.args[0].args[0]}: restore it, or use the version '
      'of str_jax that the run was made with.'
    ) from error
  step = run.checkpoints.find(args.checkpoint)
  try:
    stage, state = run.restore(step)
  except integrity.Damaged as error:
    raise ValueError(f'{error} Name another by --checkpoint.') from error
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
