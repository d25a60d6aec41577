"""Writes a trained network for other programs, and in small files."""

from __future__ import annotations

import argparse
import hashlib
import pathlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from str_jax.training import networks

# The ends of files' names, and the options that are theirs.
_KINDS = {
  'dense.safetensors': (),
  'torch.safetensors': ('thresholds',),
  'sparse.safetensors': ('values',),
  'masks.safetensors': (),
  '.pth': ('thresholds',),
  '.onnx': ('batch', 'image_shape'),
  'stablehlo': ('batch', 'image_shape'),
  '.csv': (),
  '.h': ('values',),
}
_VALUES = ('float32', 'bfloat16', 'int8')
_HELP = """the file to write, whose name ends in the kind: dense.safetensors
(our names), torch.safetensors or .pth (PyTorch's names), sparse.safetensors
(places and values), masks.safetensors (a bit a weight), .onnx, stablehlo, .csv
(a budget), .h (a FastGRNN in C)"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  parser.add_argument('directory', type=pathlib.Path, help='folder of a run')
  parser.add_argument(
    '--to', type=pathlib.Path, required=True, metavar='PATH', help=_HELP
  )
  parser.add_argument(
    '--out',
    type=pathlib.Path,
    metavar='FILE',
    help='write here, and take of --to the kind alone',
  )
  parser.add_argument(
    '--checkpoint',
    default='last',
    help="'last', 'best' on validation, or a step (default: last)",
  )
  parser.add_argument(
    '--values',
    choices=_VALUES,
    help='type of the weights in sparse.safetensors, and (but for bfloat16) '
    'in .h (default: float32)',
  )
  parser.add_argument(
    '--batch',
    type=int,
    help='images a call of .onnx and stablehlo (default: any number)',
  )
  parser.add_argument(
    '--image_shape',
    type=_shape,
    metavar='H,W,C',
    help="of an image of .onnx and stablehlo (default: the config's, or its "
    "data set's)",
  )
  parser.add_argument(
    '--thresholds',
    action='store_true',
    help="PyTorch's names with STR's thresholds beside raw weights, as its "
    'released code has them, not the weights that are used',
  )
  parser.add_argument(
    '--compact',
    action='store_true',
    help='without the filters and ranks that died',
  )
  parser.add_argument(
    '--overwrite', action='store_true', help='replace a file that is there'
  )


def run(args: argparse.Namespace) -> None:
  """Writes the file and prints its size and its checksum.

  Raises:
    FileNotFoundError: no run there, or no such checkpoint.
    OSError: the file cannot be written.
    ValueError: an unknown kind, an option that it does not have, a file that
      is there, a missing package, or a network that it cannot hold.
  """
  from absl import logging

  from str_jax.training import networks, records

  logging.set_verbosity(logging.WARNING)  # Orbax tells of every file
  kind, out = _kind(args), args.out or args.to
  _check(out, args.overwrite)
  network = networks.load(args.directory, args.checkpoint)
  dense_bytes = network.bytes
  if args.compact:
    network = network.compact()
  unfinished = out.with_name(f'unfinished-{out.name}')  # the same ending
  try:
    with records.writing(out):
      told = _write(kind, unfinished, network, args)
      data = unfinished.read_bytes()
      unfinished.replace(out)
  finally:
    unfinished.unlink(missing_ok=True)
  size = f'{len(data):,} bytes'
  if kind != '.h':  # which is text
    share = len(data) / dense_bytes
    size += f', {share:.1%} of the {dense_bytes:,} of dense float32'
  print(
    f'{out}: {size}; {network.layers.sparsity:.2%} of the weights are zero\n'
    f'sha256 {hashlib.sha256(data).hexdigest()}'
  )
  if told:
    print(told.replace(unfinished.name, out.name))


def _shape(text: str) -> tuple[int, ...]:
  shape = tuple(int(n) if n.isdigit() else 0 for n in text.split(','))
  if len(shape) != 3 or 0 in shape:
    raise argparse.ArgumentTypeError(
      f'three numbers are wanted, as 224,224,3; got {text!r}'
    )
  return shape


def _state_dict(network: networks.Network, thresholds: bool) -> dict[str, Any]:
  """Arrays by PyTorch's names."""
  from str_jax.interop import torch, torch_names

  arch = network.config.model.name
  if arch not in torch_names.FAMILIES:
    raise ValueError(
      f'a {arch} has no names of PyTorch, as {", ".join(torch_names.FAMILIES)} '
      'have: export --to=dense.safetensors.'
    )
  method, variables = None, network.variables
  if thresholds:
    if network.method is None:
      raise ValueError(
        '--thresholds is for a network with thresholds, and this one has '
        'none: leave it out.'
      )
    method, variables = network.method, network.trained
  return torch.to_state_dict(method, variables, arch)


def _write(
  kind: str, path: pathlib.Path, network: networks.Network, args: Any
) -> str:
  """Writes the file; returns what else there is to say."""
  from str_jax import budgets
  from str_jax.interop import dense_file, files, sparse_file

  model, variables = network.model, network.variables
  values = args.values or _VALUES[0]
  match kind:
    case 'dense.safetensors':
      dense_file.write(path, variables, network.metadata)
    case 'masks.safetensors':
      sparse_file.write_masks(path, variables, network.metadata)
    case 'torch.safetensors' | '.pth':
      files.write(path, _state_dict(network, args.thresholds))
    case '.csv':
      budgets.write_csv(path, budgets.from_report(network.layers))
    case 'sparse.safetensors':
      sparse_file.write(path, variables, values, network.metadata)
      return _rounding(values, variables, sparse_file.read(path)[1])
    case '.h':
      from str_jax.interop import c_header

      return c_header.write(path, model, variables, values)
    case _:
      from str_jax.interop import onnx, stablehlo

      writer = onnx if kind == '.onnx' else stablehlo
      shape = args.image_shape or network.image_shape()
      _check_shape(network, shape)
      off = writer.write(path, model, variables, shape, args.batch)
      return f'run on random images: its logits are off by {off:.1e} at most'
  return ''


def _check_shape(network: networks.Network, shape: tuple[int, ...]) -> None:
  """Whether the network takes images of a shape."""
  import functools

  import flax.errors
  import jax

  call = functools.partial(network.model.apply, network.variables)
  images = jax.ShapeDtypeStruct((1, *shape), 'float32')
  try:
    jax.eval_shape(call, images)
  except (flax.errors.FlaxError, TypeError, ValueError) as error:
    raise ValueError(
      f'the network does not take images of {",".join(map(str, shape))}: name '
      'the height, the width and the channels of its own by --image_shape.'
    ) from error


def _rounding(values: str, before: Any, after: Any) -> str:
  from str_jax.interop import sparse_file

  largest, mean = sparse_file.rounding(before, after)
  if not largest and values != _VALUES[0]:
    return 'no kernel has a zero: all stay float32, and nothing was rounded'
  if not largest:
    return f'read back: {values} values equal the weights bit for bit'
  return (
    f'read back: {values} values are off by at most {largest:.2%} of the '
    f'largest weight of their channel, and by {mean:.2%} of the weights in the '
    'root mean square'
  )


def _kind(args: argparse.Namespace) -> str:
  """The kind of file that is asked for, with options that it has."""
  found = [kind for kind in _KINDS if args.to.name.endswith(kind)]
  if not found:
    raise ValueError(
      f'--to must be a file whose name ends in one of {", ".join(_KINDS)}; got '
      f'{args.to}.'
    )
  for option in ('values', 'batch', 'image_shape', 'thresholds'):
    if getattr(args, option) and option not in _KINDS[found[0]]:
      raise ValueError(
        f'--{option} does nothing for {args.to.name}: leave it out.'
      )
  if args.out and args.out.suffix != args.to.suffix:
    raise ValueError(
      f'--out must end as --to does, in {args.to.suffix!r}; got {args.out}.'
    )
  if args.batch is not None and args.batch < 1:
    raise ValueError(f'--batch must be 1 or more, got {args.batch}.')
  of_the_network = ('masks.safetensors', '.csv', 'torch.safetensors', '.pth')
  if args.compact and found[0] in of_the_network:
    raise ValueError(
      f'--compact does not go with {args.to.name}, which is of the layers as '
      'they were trained: leave it out.'
    )
  return found[0]


def _check(out: pathlib.Path, overwrite: bool) -> None:
  """Looks whether the file may be written, before a network is read."""
  if not out.parent.is_dir() or out.is_dir():
    raise FileNotFoundError(
      f'{out} cannot be written: name a file in a folder that there is.'
    )
  if out.exists() and not overwrite:
    raise ValueError(
      f'{out} is there already: name another file, or add --overwrite.'
    )
