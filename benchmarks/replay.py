"""Training on the weights and the batch of a golden file.

The recipe of both stands in tests/golden/README.md.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import optax

import str_jax
from str_jax.interop import torch
from str_jax.methods import ST3, STR, Method
from str_jax.paths import kernels, path_names


def state_dict(
  shapes: Mapping[str, list[int]], seed: int, s_init: float = 0.0
) -> dict[str, np.ndarray]:
  """The initial weights, by the recipe of tests/golden/README.md."""
  out = {}
  for name, shape in shapes.items():
    draw = np.random.default_rng([seed, zlib.crc32(name.encode())])
    z = draw.standard_normal(shape, dtype=np.float32)
    if name.endswith('sparseThreshold'):
      out[name] = np.full(shape, s_init, np.float32)
    elif name.endswith('running_mean'):
      out[name] = np.zeros(shape, np.float32)
    elif name.endswith('running_var'):
      out[name] = np.ones(shape, np.float32)
    elif name.endswith('bias'):
      out[name] = z * np.float32(0.1)
    elif len(shape) == 1:
      out[name] = 1 + z * np.float32(0.1)
    else:
      out[name] = z * np.float32(math.sqrt(2 / math.prod(shape[1:])))
  return out


def batch(
  seed: int, batch: int, size: int, classes: int
) -> tuple[np.ndarray, np.ndarray]:
  """The one batch, images NHWC, by the same recipe."""
  draw = np.random.default_rng([seed, 1])
  images = draw.standard_normal((batch, 3, size, size), dtype=np.float32)
  return images.transpose(0, 2, 3, 1), draw.integers(0, classes, batch)


def like_pytorch(model: Any) -> Any:
  """The model with BatchNorms whose running variance is PyTorch's."""
  norm = functools.partial(torch.BatchNorm, **model.norm.keywords)
  return model.clone(norm=norm)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _gradients(
  model: Any,
  variables: Any,
  images: jax.Array,
  labels: jax.Array,
  label_smoothing: float,
) -> tuple[tuple[jax.Array, tuple[jax.Array, Any]], Any]:
  """Loss, logits, new statistics, and the gradient of every parameter."""

  def loss(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
    logits, updated = model.apply(
      {**variables, 'params': params},
      images,
      train=True,
      mutable=['batch_stats'],
    )
    targets = jax.nn.one_hot(labels, logits.shape[-1])
    targets = optax.smooth_labels(targets, label_smoothing)
    cross_entropy = optax.softmax_cross_entropy(logits, targets).mean()
    return cross_entropy, (logits, updated)

  return jax.value_and_grad(loss, has_aux=True)(variables['params'])


@functools.partial(jax.jit, static_argnums=0)
def eval_loss(
  model: Any, variables: Any, images: jax.Array, labels: jax.Array
) -> jax.Array:
  logits = model.apply(variables, images, train=False)
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@functools.partial(jax.jit, static_argnums=0)
def measure(
  method: Method, variables: Any
) -> tuple[Any, dict[str, dict[str, jax.Array]]]:
  """The effective weights; non-zeros and threshold of every layer."""
  frozen = str_jax.freeze(method, variables)
  return frozen, str_jax.report.layer_statistics(method, variables)


def sparsity(params: Any, statistics: Any) -> float:
  """Fraction of zeros over all layers."""
  weights = sum(w.size for w in kernels(params).values())
  return 1 - sum(int(n) for n in statistics['nonzero'].values()) / weights


@dataclasses.dataclass(frozen=True)
class Step:
  """What a step computed from its variables, and the variables after it."""

  loss: jax.Array
  logits: jax.Array
  gradients: Any
  gradient_norm: jax.Array
  variables: Any


def train(
  model: Any,
  method: Method,
  tx: optax.GradientTransformation,
  variables: Any,
  data: tuple[np.ndarray, np.ndarray],
  spec: Mapping[str, Any],
) -> Iterator[Step]:
  """The steps of a run on one batch."""

  @jax.jit
  def update(
    variables: Any, gradients: Any, opt_state: Any, step: int
  ) -> tuple[Any, Any, jax.Array]:
    params = variables['params']
    updates, opt_state = tx.update(gradients, opt_state, params)
    variables = {**variables, 'params': optax.apply_updates(params, updates)}
    variables = str_jax.update_thresholds(method, variables, step)
    return variables, opt_state, optax.tree.norm(gradients)

  opt_state = tx.init(variables['params'])
  smoothing = spec.get('label_smoothing', 0.0)
  for i in range(spec['steps']):
    (loss, (logits, updated)), gradients = _gradients(
      model, variables, *data, smoothing
    )
    variables, opt_state, norm = update(
      {**variables, **updated}, gradients, opt_state, i + 1
    )
    yield Step(loss, logits, gradients, norm, variables)


@functools.cache
def resnet18() -> tuple[Any, Method]:
  """One model and method for both files of STR: they are compiled once."""
  method = STR()
  model = str_jax.models.create('resnet18', num_classes=1000, method=method)
  return like_pytorch(model), method


def str_optimizer(spec: Mapping[str, Any]) -> optax.GradientTransformation:
  """PyTorch's SGD with the decay of STR's code.

  Its `no_bn_decay` is for parameters with `bn` in their name, so the norm of
  a shortcut, PyTorch's `downsample.1`, decays all the same.
  """
  rate = spec['weight_decay']
  of_s = rate if spec['st_decay'] is None else spec['st_decay']
  norms = str_jax.optim.decay(norms=rate)
  if spec['no_bn_decay']:
    norms = optax.masked(norms, _are_shortcuts)
  return optax.chain(
    str_jax.optim.decay(kernels=rate, thresholds=of_s),
    norms,
    optax.sgd(spec['lr'], momentum=spec['momentum']),
  )


def _are_shortcuts(params: Any) -> Any:
  return jax.tree_util.tree_map_with_path(
    lambda path, _: 'shortcut_norm' in path_names(path), params
  )


def resnet8(
  spec: Mapping[str, Any], trained: Mapping[str, list[int]]
) -> tuple[Any, ST3, optax.GradientTransformation, Any]:
  """ST-3's model, method, optimizer and initial variables.

  Args:
    spec: a golden file's.
    trained: shapes of the trained parameters by their PyTorch names.
  """
  arch, sizes = 'resnet20', (spec['n_size'],) * 3
  method = ST3(
    by_shape=spec['criterion'] == 'l1std',
    sparsity=spec['sparsity'],
    end_step=spec['steps'] - 2,
    rescale=spec['rescale'],
    hard=not spec['soft'],
  )
  shapes = dict(trained)
  for name in trained:  # which leaves the statistics out
    if name.endswith('batchnorm.bias'):
      for kind in ('running_mean', 'running_var'):
        shapes[name.replace('bias', kind)] = shapes[name]
  _, dense = torch.from_state_dict(
    state_dict(shapes, spec['seed']), arch, stage_sizes=sizes
  )
  model = like_pytorch(
    str_jax.models.create(
      arch,
      num_classes=10,
      method=method,
      norm_momentum=0.99,
      stage_sizes=sizes,
    )
  )
  tx = optax.chain(
    optax.clip_by_global_norm(spec['clip']),
    str_jax.optim.decay(kernels=spec['weight_decay']),
    optax.sgd(spec['lr'], momentum=spec['momentum']),
  )
  return model, method, tx, str_jax.add_thresholds(method, dense)


def by_layer(
  of: Callable[[np.ndarray], Any],
  layers: Iterable[str],
  named: Mapping[str, np.ndarray],
  leaf: str = 'weight',
) -> dict[str, Any]:
  """A number of each layer's array."""
  return {layer: of(named[f'{layer}.{leaf}']) for layer in layers}


def zeros(w: np.ndarray) -> float:
  return float(np.mean(w == 0))


def magnitude(w: np.ndarray) -> float:
  return float(np.abs(w).sum(dtype=np.float64))
