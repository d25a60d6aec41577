"""PyTorch state dicts of these models, to our variables and back.

PyTorch itself is not imported: a state dict is a mapping from names to
whatever ``numpy.asarray`` takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from str_jax import models
from str_jax.interop import torch_arrays, torch_names
from str_jax.interop.torch_names import CLASSIFIER, STEM, Names, few
from str_jax.methods import STR, Method
from str_jax.paths import KERNEL, THRESHOLD, Path, named_leaves

__all__ = ['BatchNorm', 'from_state_dict', 'to_state_dict']

_THRESHOLD = torch_names.LEAVES[THRESHOLD]


def from_state_dict(
  state_dict: Mapping[str, Any], arch: str, **sizes: Any
) -> tuple[Method | None, dict[str, Any]]:
  """Our variables of a PyTorch model's state dict.

  Convolutions go from (out, in, height, width) to (height, width, in, out), a
  linear or 1x1-convolution classifier to (in, out), STR's `sparseThreshold`
  to the leaf `kernel_threshold`. The number of classes, a classifier's bias,
  and a first or last layer without threshold are read off the names and
  shapes; counters and a prefix `module.` or `model.` that all names share are
  dropped. Of ST-3's networks what comes is dense: masks are in the weights,
  and biases of convolutions in the running means of the norms after them.

  Args:
    state_dict: PyTorch names to tensors (on the CPU) or NumPy arrays; of a
      checkpoint its entry `state_dict`.
    arch: name of our model, of those whose PyTorch names are known: resnet18,
      34 and 50 under torchvision's and STR's names, mobilenet_v1 under STR's,
      resnet8, 20, 32 and 56 under those of ST-3's ResNets for CIFAR.
    **sizes: the model's sizes where they are not the usual ones, as for
      `str_jax.models.create`.

  Returns:
    The method, None or an STR with g = sigmoid, and the variables. A state
    dict does not say where thresholds started: `init_value` is their median.

  Raises:
    ValueError: an unknown arch; names missing or unexpected; other shapes;
      what is no array of numbers; layers of ST-3's that are pruned, but not
      fixed yet.

  STR (ICML 2020) and ST-3 (WACV 2023), their released code.

  >>> import jax, jax.numpy as jnp, str_jax
  >>> small = {'stage_sizes': (1, 1, 1), 'width': 2}
  >>> model = str_jax.models.create('resnet20', num_classes=10, **small)
  >>> variables = model.init(jax.random.key(0), jnp.ones((1, 8, 8, 3)))
  >>> state_dict = to_state_dict(None, variables, 'resnet20')
  >>> method, again = from_state_dict(state_dict, 'resnet20', **small)
  >>> again['params']['classifier']['kernel'].shape
  (8, 10)
  """
  names = torch_names.of(arch)
  found = torch_arrays.read(state_dict)
  if names.pruned_layers:
    found = torch_arrays.without_pruning(found)
  learned = [v for n, v in found.items() if n.endswith(_THRESHOLD)]
  method = None
  if learned:
    start = np.median(np.concatenate([np.ravel(s) for s in learned]))
    method = STR(init_value=float(start))
  leaves = _leaves(arch, names, method, found, sizes)
  paths = names.paths(leaves, arch)
  _check(found, {n: _shapes(p, leaves[p]) for n, p in paths.items()}, arch)
  return method, traverse_util.unflatten_dict(
    {path: _to_ours(found[n], leaves[path]) for n, path in paths.items()}
  )


def to_state_dict(
  method: Method | None,
  variables: Any,
  arch: str,
  *,
  conv_classifier: bool | None = None,
) -> dict[str, np.ndarray]:
  """The PyTorch state dict of our variables; undoes `from_state_dict`.

  PyTorch's `load_state_dict` takes it once every array went through
  `torch.from_numpy`; that of ST-3's networks with strict=False, for what their
  layers hold beside the weights (and their dense convolutions' biases, to be
  set to 0).

  Args:
    method: None, or an STR as the released code knows it: a layer's one
      threshold, g = sigmoid, slope 1.
    variables: parameters and statistics, or any tree of that structure.
    arch: name of our model, as for `from_state_dict`.
    conv_classifier: whether the classifier is a 1x1 convolution, as in all of
      STR's released networks, the dense, GMP and DNW ones too, or linear, as
      in torchvision and in ST-3's. None: a convolution with thresholds of
      STR's, and in mobilenet_v1.

  Returns:
    PyTorch names to NumPy arrays in PyTorch's layouts.

  Raises:
    ValueError: an unknown arch; variables of another model or another
      method; a method that the released code does not know.

  STR (ICML 2020) and ST-3 (WACV 2023), their released code.

  >>> import jax, jax.numpy as jnp, str_jax
  >>> model = str_jax.models.create(
  ...   'resnet18', num_classes=10, stage_sizes=(1,), width=2
  ... )
  >>> variables = model.init(jax.random.key(0), jnp.ones((1, 8, 8, 3)))
  >>> state_dict = to_state_dict(None, variables, 'resnet18')
  >>> [state_dict[f'{layer}.weight'].shape for layer in ('conv1', 'fc')]
  [(2, 3, 7, 7), (10, 2)]
  """
  names = torch_names.of(arch)
  if method is not None:
    released = isinstance(method, STR) and method == STR(method.init_value)
    if not released:
      raise ValueError(
        "a state dict can hold an STR with granularity 'layer', g 'sigmoid' "
        f'and slope 1, or no method, got {method}: pass None and '
        'str_jax.freeze(method, variables), the effective weights.'
      )
  leaves = named_leaves(variables)
  if (method is None) == any(path[-1] == THRESHOLD for path in leaves):
    raise ValueError(
      f'the variables must hold the thresholds of their method, {method}, and '
      'no others: pass the method they belong to, or str_jax.freeze them '
      'with it and pass None.'
    )
  conv = conv_classifier
  if conv is None:
    conv = method is not None or names.conv_classifier
  return {
    name: _to_theirs(np.asarray(leaves[path]), path, conv)
    for name, path in names.paths(leaves, arch).items()
  }


class BatchNorm(nn.BatchNorm):
  r"""``flax.linen.BatchNorm`` whose running variance is PyTorch's.

  .. math:: v \leftarrow m\,v + (1 - m)\,\frac{n}{n - 1}\,\sigma^2

  with the n numbers a channel has in the batch. In training the batch is
  normalised by :math:`\sigma^2` in both libraries; only what is kept for
  evaluation differs. Pass it as the `norm=` of a model to follow a PyTorch
  run; a momentum of PyTorch's is 1 minus Flax's.

  Args of ``__call__``: inputs ``(..., channels)``, more than one a channel in
  training; returns the same shape.

  STR (ICML 2020) and ST-3 (WACV 2023), their released code.

  >>> import jax, jax.numpy as jnp
  >>> norm = BatchNorm(use_running_average=False, momentum=0.0)
  >>> x = jnp.array([[1.0], [3.0]])
  >>> _, new = norm.apply(
  ...   norm.init(jax.random.key(0), x), x, mutable=['batch_stats']
  ... )
  >>> new['batch_stats']['var'].tolist()  # the biased variance is 1
  [2.0]
  """

  def __call__(
    self,
    x: jax.Array,
    use_running_average: bool | None = None,
    *,
    mask: jax.Array | None = None,
  ) -> jax.Array:
    average = nn.merge_param(
      'use_running_average', self.use_running_average, use_running_average
    )
    if average or self.is_initializing():
      return super().__call__(x, use_running_average, mask=mask)
    before: jax.Array = self.get_variable('batch_stats', 'var')
    y = super().__call__(x, use_running_average, mask=mask)
    biased = self.get_variable('batch_stats', 'var') - self.momentum * before
    seen = x.size if mask is None else jnp.broadcast_to(mask, x.shape).sum()
    n = seen / before.size
    self.put_variable(
      'batch_stats', 'var', self.momentum * before + biased * n / (n - 1)
    )
    return y


def _leaves(
  arch: str,
  names: Names,
  method: Method | None,
  found: Mapping[str, np.ndarray],
  sizes: Mapping[str, Any],
) -> dict[Path, jax.ShapeDtypeStruct]:
  """The leaves of the model that a state dict should be of."""
  stem, last = names.outer[STEM], names.outer[CLASSIFIER]
  model = models.create(
    arch,
    num_classes=len(np.atleast_1d(found.get(f'{last}.weight', 0))),
    method=method,
    classifier_bias=f'{last}.bias' in found,
    first_layer_dense=f'{stem}.{_THRESHOLD}' not in found,
    last_layer_dense=f'{last}.{_THRESHOLD}' not in found,
    **sizes,
  )
  channels = (*np.shape(found.get(f'{stem}.weight', ())), 3, 3)[1]
  images = jax.ShapeDtypeStruct((1, 32, 32, channels), jnp.float32)
  return named_leaves(jax.eval_shape(model.init, jax.random.key(0), images))


def _shapes(path: Path, leaf: jax.ShapeDtypeStruct) -> list[tuple[int, ...]]:
  """The shapes that a leaf may have in PyTorch."""
  if path[-1] == THRESHOLD:
    return [(1, 1)]
  if path[-1] != KERNEL:
    return [leaf.shape]
  *window, inputs, outputs = leaf.shape
  shape = (outputs, inputs, *window)
  return [shape, (*shape, 1, 1)] if path[-2] == CLASSIFIER else [shape]


def _check(
  found: Mapping[str, np.ndarray],
  shapes: Mapping[str, list[tuple[int, ...]]],
  arch: str,
) -> None:
  wrong = [
    f'{name} of shape {found[name].shape}, not {shapes[name][0]}'
    for name in shapes
    if name in found and found[name].shape not in shapes[name]
  ]
  missing, unexpected = (
    sorted(names, key=lambda name: (not name.endswith('weight'), name))
    for names in (shapes.keys() - found.keys(), found.keys() - shapes.keys())
  )
  faults = {
    'lacks': missing,
    'also holds': unexpected,
    'has': wrong,
  }
  told = [f'{verb} {few(names)}' for verb, names in faults.items() if names]
  if told:
    raise ValueError(
      f'the state dict must be of {arch}, but it {"; it ".join(told)}: pass '
      'the arch and the sizes of its own model.'
    )


def _to_ours(value: np.ndarray, leaf: jax.ShapeDtypeStruct) -> jax.Array:
  if leaf.ndim > 1 and value.size > 1:  # a weight: (out, in, *window)
    value = value.transpose(*range(2, value.ndim), 1, 0)
  return jnp.asarray(value.reshape(leaf.shape), leaf.dtype)


def _to_theirs(value: np.ndarray, path: Path, conv: bool) -> np.ndarray:
  if path[-1] == THRESHOLD:
    value = value.reshape(1, 1)
  elif path[-1] == KERNEL:
    n = value.ndim
    value = value.transpose(n - 1, n - 2, *range(n - 2))
    if conv and path[-2] == CLASSIFIER:
      value = value[:, :, None, None]
  return np.array(value, order='C')  # writable, as PyTorch wants it
