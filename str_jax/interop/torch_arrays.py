"""A PyTorch state dict as NumPy arrays, by the names of the dense network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from str_jax.interop.torch_names import few

# Counters: of BatchNorms, and of the profiler in ST-3's code.
_COUNTERS = ('num_batches_tracked', 'total_ops', 'total_params')
# torch.compile's, DataParallel's and Lightning's.
_PREFIXES = ('_orig_mod.', 'module.', 'model.')
_PRUNED = ('th', 'fixed', 'scale', 'mask')


def read(state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """The arrays by name, without what wrappers and counters add.

  Args:
    state_dict: PyTorch names to tensors (on the CPU) or NumPy arrays.

  Returns:
    Names to arrays, without the prefix that all names share.

  Raises:
    ValueError: it is no state dict, or a whole checkpoint, or holds something
      that is no array of numbers.

  >>> list(read({'module.fc.bias': [0.0], 'module.bn1.total_ops': [7.0]}))
  ['fc.bias']
  """
  if not isinstance(state_dict, Mapping):
    raise ValueError(
      'a state dict maps names to tensors, but here got a '
      f'{type(state_dict).__name__}: load the model, and pass what its '
      'state_dict() gives.'
    )
  if isinstance(state_dict.get('state_dict'), Mapping):
    raise ValueError(
      f'this is a whole checkpoint, of {few([str(k) for k in state_dict])}: '
      'pass its entry state_dict.'
    )
  found = {}
  for name, value in state_dict.items():
    if not isinstance(name, str):
      raise ValueError(
        f'a state dict has names of tensors, but here got {name!r}: pass what '
        "the model's state_dict() gives."
      )
    if not name.endswith(_COUNTERS):
      found[name] = _array(name, value)
  for prefix in _PREFIXES:
    if all(name.startswith(prefix) for name in found):
      found = {n.removeprefix(prefix): value for n, value in found.items()}
  return found


def _array(name: str, value: Any) -> np.ndarray:
  try:
    array = np.asarray(value)
  except (TypeError, RuntimeError, ValueError) as error:
    raise ValueError(
      f'{name} cannot be read as an array of NumPy ({error}): pass {{k: '
      'v.detach().float().cpu() for k, v in state_dict.items()}.'
    ) from error
  kinds = (jnp.floating, jnp.integer, bool)
  if not any(jnp.issubdtype(array.dtype, kind) for kind in kinds):
    raise ValueError(
      f'a state dict holds tensors, but {name} is {value!r}: pass the '
      "model's own state dict."
    )
  if not array.size:
    raise ValueError(
      f'{name} has the shape {array.shape}, nothing at all: pass the weights '
      'of a whole model.'
    )
  return array


def without_pruning(found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  r"""What ST-3's released code writes, as the dense network that it computes.

  A pruned layer there holds `th`, `fixed`, `scale` and `mask` beside its
  weight. Once it is fixed it computes with the weight times the mask, and
  before the first pruning (`th` of 0 or below) with the weight itself. The
  bias b of a convolution is taken off by the BatchNorm that follows, of
  running mean m:

  .. math:: BN_{m}(x * w + b) = BN_{m - b}(x * w)

  Args:
    found: arrays by their names, as `read` gives them.

  Returns:
    The same, with weights that hold the masks and norms that hold the biases.

  Raises:
    ValueError: a layer is pruned and not fixed yet: whether its threshold is
      soft or hard is not in a state dict.

  ST-3 (WACV 2023), its released code: stthree/models/layers/quantized.py.

  >>> layer = {'weight': [[2.0, 3.0]], 'mask': [[1.0, 0.0]], 'th': [0.5],
  ...   'fixed': [True], 'scale': [[1.0]]}
  >>> found = {f'fc.{leaf}': np.array(v) for leaf, v in layer.items()}
  >>> {name: value.tolist() for name, value in without_pruning(found).items()}
  {'fc.weight': [[2.0, 0.0]]}
  """
  dense = dict(found)
  open_layers = []
  layers = [n.removesuffix('.fixed') for n in found if n.endswith('.fixed')]
  for layer in layers:
    names = [f'{layer}.{leaf}' for leaf in ('weight', *_PRUNED)]
    if not found.keys() >= {*names}:
      continue  # whoever checks the names will say so
    weight, threshold, fixed, _, mask = (found[name] for name in names)
    if mask.shape != weight.shape:
      raise ValueError(
        f'the state dict has {layer}.mask of shape {mask.shape}, not '
        f'{weight.shape} as its weight: pass what the model itself wrote.'
      )
    if fixed.all():
      dense[names[0]] = weight * mask
    elif (threshold > 0).any():
      open_layers.append(layer)
    for name in names[1:]:
      del dense[name]
  if open_layers:
    raise ValueError(
      f'the layers {few(open_layers)} are not fixed yet, and a state dict does '
      'not say how they use their thresholds: take a checkpoint of the '
      'fine-tuning, or call fix_layers() of the training module first.'
    )
  return _without_biases(dense)


def _without_biases(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Biases of convolutions, taken off the running means of their norms."""
  moved = dict(found)
  for name in found:
    mean = f'{name.removesuffix(".conv.bias")}.batchnorm.running_mean'
    if mean in found and found[mean].shape == found[name].shape:
      moved[mean] = found[mean] - moved.pop(name)
  return moved
