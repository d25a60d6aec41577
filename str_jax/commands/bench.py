"""Times a trained network on this CPU, beside dense ones."""

from __future__ import annotations

import argparse
import os
import pathlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  import jax

  from str_jax.inference.comparison import Comparison
  from str_jax.training.networks import Network


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  parser.add_argument('directory', type=pathlib.Path, help='folder of a run')
  parser.add_argument(
    '--batch',
    type=_numbers,
    default=(1, 8),
    metavar='N,N',
    help='images of a call, several with commas (default: 1,8)',
  )
  parser.add_argument(
    '--threads', type=int, help='CPUs to use (default: all that there are)'
  )
  parser.add_argument(
    '--checkpoint',
    default='last',
    help="'last', 'best' on validation, or a step (default: last)",
  )
  parser.add_argument(
    '--image_shape',
    type=_numbers,
    metavar='H,W,C',
    help="of an image (default: the config's, or its data set's)",
  )
  parser.add_argument(
    '--compact',
    action='store_true',
    help='without the filters that died, the dense programs too',
  )


def run(args: argparse.Namespace) -> None:
  """Builds the network, times it and prints the tables.

  Raises:
    FileNotFoundError: no run there, or no such checkpoint.
    ValueError: a number out of range, or images that are not the model's.
  """
  threads = take_threads(args.threads)
  if args.image_shape and len(args.image_shape) != 3:
    raise ValueError(
      f'--image_shape must be three numbers, as 224,224,3, got '
      f'{",".join(map(str, args.image_shape))}.'
    )
  from absl import logging

  from str_jax.inference import reading
  from str_jax.training import networks

  logging.set_verbosity(logging.WARNING)  # Orbax tells of every file
  found = networks.load(args.directory, args.checkpoint)
  shape = args.image_shape or found.image_shape()
  if args.compact:
    found = found.compact()
  measure = _whole if reading.knows(found.model) else _by_layer
  print(
    f'{args.directory}: {found.config.model.name}, '
    f'{found.layers.sparsity:.2%} of the weights are zero, {threads} '
    f'thread{"s" if threads > 1 else ""}'
  )
  for batch in args.batch:
    _show(measure(found, (batch, *shape), threads))


def _whole(found: Network, images: tuple[int, ...], threads: int) -> Comparison:
  """A network that is computed as a whole, beside other libraries'."""
  from str_jax.inference import comparison, reading

  network = reading.network(found.model, found.variables)
  return comparison.compare(network, images, threads)  # type: ignore[arg-type]


def _by_layer(
  found: Network, images: tuple[int, ...], threads: int
) -> Comparison:
  """Any other, whose layers with zeros are computed by themselves."""
  del threads  # JAX has its own
  import flax
  import jax
  import jax.numpy as jnp

  from str_jax.inference import comparison

  def logits(variables: Any, images: jax.Array) -> jax.Array:
    return found.model.apply(variables, images, train=False)

  try:
    jax.eval_shape(
      logits, found.variables, jax.ShapeDtypeStruct(images, jnp.float32)
    )
  except (flax.errors.FlaxError, TypeError, ValueError) as error:
    raise ValueError(
      f'the {type(found.model).__name__} cannot be called with images of the '
      f'shape {images} ({str(error).splitlines()[0]}): give their own by '
      '--image_shape=H,W,C.'
    ) from error
  return comparison.compare_function(logits, found.variables, images)


def _show(result: Comparison) -> None:
  """Prints what was measured for one batch."""
  import rich.console
  import rich.table
  from rich import box

  console = rich.console.Console()
  batch = result.images[0]
  layers = rich.table.Table(box=box.SIMPLE_HEAD)
  for column in ('layer', 'zeros', 'by', 'us', 'dense us'):
    right = column not in ('layer', 'by')
    layers.add_column(column, justify='right' if right else 'left')
  for layer in result.layers:
    taken = layer.seconds.get(layer.kernel)
    dense = [s for k, s in layer.seconds.items() if not k.sparse]
    layers.add_row(
      layer.name,
      f'{1 - layer.nonzero / layer.weights:.1%}',
      str(layer.kernel),
      '' if taken is None else f'{taken * 1e6:,.0f}',
      f'{min(dense) * 1e6:,.0f}' if dense else '',
    )
  programs = rich.table.Table(box=box.SIMPLE_HEAD)
  programs.add_column(f'batch {batch}')
  for column in ('ms', 'over str_jax', 'range', 'logits differ by'):
    programs.add_column(column, justify='right')
  for row in result.rows:
    programs.add_row(
      row.program,
      f'{row.seconds * 1e3:.3g}',
      f'{row.ratio:.2f}',
      f'{row.least:.2f}-{row.most:.2f}',
      f'{row.difference:.0e}',
    )
  console.print(layers, programs)
  if result.note:
    print(result.note)
  if result.missing:
    print(f'not measured, as not installed: {", ".join(result.missing)}')
  sparse = sum(layer.kernel.sparse for layer in result.layers)
  wrong = [row.program for row in result.rows if not row.difference < 1e-3]
  if wrong:
    verdict = f'NO VERDICT: {", ".join(wrong)} computed other logits than ours'
  elif result.speedup >= 1:
    verdict = f'{result.speedup:.2f} times as fast as the best dense program'
  else:
    verdict = (
      f'SLOWER, {result.speedup:.2f} times as fast as the best dense one'
    )
  print(
    f'batch {batch}, {result.together} at a time: {sparse} of '
    f'{len(result.layers)} layers by sparse kernels; '
    f'{verdict} ({result.best.program})\n'
  )


def take_threads(asked: int | None) -> int:
  """Keeps this process to so many CPUs; before JAX starts its threads.

  Args:
    asked: their number; None for all that there are.

  Returns:
    The number.

  Raises:
    ValueError: there are not so many, or the system has no such call.
  """
  if not hasattr(os, 'sched_setaffinity'):
    if asked is not None:
      raise ValueError(
        '--threads is known on Linux alone: leave it out, and all CPUs are '
        'used.'
      )
    return os.cpu_count() or 1
  cpus = sorted(os.sched_getaffinity(0))
  if asked is None:
    return len(cpus)
  if not 1 <= asked <= len(cpus):
    raise ValueError(
      f'--threads must be from 1 to the {len(cpus)} CPUs here, got {asked}.'
    )
  os.sched_setaffinity(0, cpus[:asked])
  return asked


def _numbers(text: str) -> tuple[int, ...]:
  numbers = tuple(int(n) if n.isdigit() else 0 for n in text.split(','))
  if 0 in numbers:
    raise argparse.ArgumentTypeError(
      f'numbers of 1 or more are wanted, with commas between; got {text!r}'
    )
  return numbers
