"""Takes in a network under PyTorch's names: .pth and .safetensors files."""

import argparse
import copy
import pathlib
import shlex
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from str_jax.training.imported import Arrived

# Those of str_jax.interop.torch_names, which imports jax.
ARCHS = (
  *('resnet18', 'resnet34', 'resnet50', 'resnet8', 'resnet20', 'resnet32'),
  *('resnet56', 'mobilenet_v1'),
)
_ZEROS = 0.01  # more of them than any dense network has by chance


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  parser.add_argument(
    'file',
    type=pathlib.Path,
    help="checkpoint of STR's or ST-3's code, or weights of torchvision's",
  )
  parser.add_argument(
    '--arch',
    required=True,
    help=f'model that it is of: {", ".join(ARCHS)}',
  )
  parser.add_argument(
    '--out', type=pathlib.Path, required=True, help='the new folder of a run'
  )
  parser.add_argument(
    '--config',
    metavar='FILE[:VARIANT]',
    help='recipe to train on with (default: the published one of the model); '
    '--config.FIELD=VALUE sets a field',
  )
  parser.add_argument(
    '--dataset', help="what the network is for (default: the config's)"
  )
  parser.set_defaults(overrides=[])  # main fills them in


def run(args: argparse.Namespace) -> None:
  """Writes the folder and prints what the file was.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file cannot be read, or is of another network; the folder
      is there already.
  """
  from absl import logging

  from str_jax.training import compilation_cache, imported

  logging.set_verbosity(logging.WARNING)  # Orbax tells of every file
  compilation_cache.enable()
  arrived, summary = imported.take(
    args.file,
    args.arch,
    args.out,
    spec=args.config,
    overrides=tuple(args.overrides),
    dataset=args.dataset,
    command=shlex.join(['python', '-m', 'str_jax', *sys.argv[1:]]),
  )
  _show(args.file, arrived, summary)
  _show_next(arrived, summary, args.out)


def _show(
  path: pathlib.Path, arrived: 'Arrived', summary: dict[str, Any]
) -> None:
  """Prints what the file was."""
  from str_jax.paths import THRESHOLD, named_leaves
  from str_jax.training import imported

  height, width, channels = arrived.dataset.image_shape
  print(f'{path}: a {arrived.file.kind}{imported.told(arrived.file)}')
  print(
    f'{summary["model"]} for {arrived.dataset.num_classes:,} classes of '
    f'{arrived.dataset.name}, images of {height} x {width} x {channels}'
  )
  learned = [
    float(leaf.max())
    for leaf_path, leaf in named_leaves(arrived.variables).items()
    if leaf_path[-1] == THRESHOLD
  ]
  if learned:
    print(
      f'an STR network: {len(learned)} thresholds taken, s from '
      f'{min(learned):.4g} to {max(learned):.4g}'
    )
  print(
    f'{len(summary["layers"])} layers, {summary["nonzero"]:,} of '
    f'{summary["weights"]:,} weights ({summary["sparsity"]:.2%} zeros), '
    f'{summary["flops"]:,} of {summary["dense_flops"]:,} multiply-adds '
    f'({summary["flops"] / summary["dense_flops"]:.2%})'
  )


def _show_next(
  arrived: 'Arrived', summary: dict[str, Any], out: pathlib.Path
) -> None:
  """Prints the commands to go on with."""
  from str_jax.training import command_line, flags

  config = copy.deepcopy(arrived.config)
  config.init_from = str(out)
  given, _ = flags.load_config(arrived.spec)
  folder = shlex.quote(str(out))
  print(f'written to {out}; next:')
  print(f'  python -m str_jax report {folder}')
  print(f'  python -m str_jax evaluate {folder}')
  print(f'  python -m str_jax snap {folder} --target=0.95')
  print(f'  {command_line.training(config, arrived.spec, given)}')
  if arrived.method is None and summary['sparsity'] > _ZEROS:
    print('  (and --config.method.name=frozen to keep its zeros)')
  if not arrived.is_here:
    print(
      f'{config.dataset} is not on this machine: all but the report need it.'
    )
