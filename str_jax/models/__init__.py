"""The models, in one table of names."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax.core import FrozenDict

import str_jax.nn
from str_jax import lowering as lowerings
from str_jax.methods import Method
from str_jax.models.base import ImageClassifier
from str_jax.models.convnet import ConvNet
from str_jax.models.fastgrnn import FastGRNN
from str_jax.models.initializers import Mode, kaiming_normal
from str_jax.models.mobilenet import BLOCKS, MobileNetV1
from str_jax.models.resnet import BasicBlock, Bottleneck, ResNet
from str_jax.models.vgg import VGG
from str_jax.models.vit import ViT
from str_jax.models.wide_resnet import WideResNet

__all__ = [
  'BasicBlock',
  'Bottleneck',
  'ConvNet',
  'FastGRNN',
  'ImageClassifier',
  'MobileNetV1',
  'ResNet',
  'VGG',
  'ViT',
  'WideResNet',
  'create',
  'kaiming_normal',
  'names',
  'sizes_of',
]


def _resnet(block: type[nn.Module], *stage_sizes: int) -> dict[str, Any]:
  return {'block': block, 'stage_sizes': stage_sizes, 'width': 64}


def _cifar_resnet(blocks: int) -> dict[str, Any]:
  sizes = {'stage_sizes': (blocks,) * 3, 'width': 16}
  return {'block': BasicBlock, 'small_images': True, **sizes}


def _vgg(*stage_sizes: int) -> dict[str, Any]:
  return {'stage_sizes': stage_sizes, 'widths': (64, 128, 256, 512, 512)}


def _vgg_st3(*stage_sizes: int) -> dict[str, Any]:
  return {'stage_sizes': stage_sizes, 'widths': (64, 128, 128)}


def _wide_resnet(blocks: int, widen: int, dropout: float) -> dict[str, Any]:
  sizes = {'stage_sizes': (blocks,) * 3, 'width': 16, 'widen': widen}
  return sizes | {'dropout': dropout}


def _vit(
  width: int, depth: int, heads: int, mlp_ratio: float
) -> dict[str, Any]:
  sizes = {'width': width, 'depth': depth, 'heads': heads}
  return {'patch': 4, **sizes, 'mlp_ratio': mlp_ratio}


# Class and sizes of each model; `create` takes the same sizes by keyword.
_MODELS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
  'convnet': (ConvNet, {'widths': (32, 64, 64)}),
  'resnet8': (ResNet, _cifar_resnet(1)),
  'resnet20': (ResNet, _cifar_resnet(3)),
  'resnet32': (ResNet, _cifar_resnet(5)),
  'resnet56': (ResNet, _cifar_resnet(9)),
  'resnet18': (ResNet, _resnet(BasicBlock, 2, 2, 2, 2)),
  'resnet34': (ResNet, _resnet(BasicBlock, 3, 4, 6, 3)),
  'resnet50': (ResNet, _resnet(Bottleneck, 3, 4, 6, 3)),
  'mobilenet_v1': (MobileNetV1, {'width': 1.0, 'blocks': BLOCKS}),
  'vgg11': (VGG, _vgg(1, 1, 2, 2, 2)),
  'vgg13': (VGG, _vgg(2, 2, 2, 2, 2)),
  'vgg16': (VGG, _vgg(2, 2, 3, 3, 3)),
  'vgg19': (VGG, _vgg(2, 2, 4, 4, 4)),
  'vgg11_st3': (VGG, _vgg_st3(1, 1, 2)),
  'vgg13_st3': (VGG, _vgg_st3(2, 2, 2)),
  'vgg16_st3': (VGG, _vgg_st3(2, 2, 3)),
  'vgg19_st3': (VGG, _vgg_st3(2, 2, 4)),
  'wrn_28_10': (WideResNet, _wide_resnet(4, 10, dropout=0.0)),
  'wrn_34_2': (WideResNet, _wide_resnet(5, 2, dropout=0.2)),
  'vit_micro': (ViT, _vit(96, 4, 3, mlp_ratio=2.0)),
  'vit_tiny': (ViT, _vit(192, 12, 3, mlp_ratio=4.0)),
  'vit_small': (ViT, _vit(384, 12, 6, mlp_ratio=4.0)),
  'fastgrnn': (
    FastGRNN,
    {'hidden': 32, 'w_rank': None, 'u_rank': None, 'gated': False},
  ),
}
# Defaults of what some models do not take, and why.
_STARTS = {'init': 'fan_in', 'density': 1.0, 'norm_momentum': 0.9}
_NOT_OF: dict[type[nn.Module], tuple[str, dict[str, Any]]] = {
  FastGRNN: (
    'neither convolutions nor norms, and always a dense classifier',
    {'first_layer_dense': False, 'last_layer_dense': False}
    | _STARTS
    | {'channels': {}},
  ),
  ViT: (
    "Flax's own initial weights, no BatchNorm, and one width throughout",
    _STARTS | {'channels': {}},
  ),
}


def names() -> tuple[str, ...]:
  """The names that :func:`create` knows.

  >>> 'resnet50' in names()
  True
  """
  return tuple(_MODELS)


def sizes_of(name: str) -> tuple[str, ...]:
  """The sizes of a model that :func:`create` takes.

  Args:
    name: one of :func:`names`.

  Returns:
    Names of arguments.

  Raises:
    ValueError: an unknown name.

  >>> sizes_of('wrn_28_10')
  ('stage_sizes', 'width', 'widen', 'dropout')
  """
  if name not in _MODELS:
    raise ValueError(
      f'there is no model {name!r}; the models are {", ".join(_MODELS)}.'
    )
  return tuple(_MODELS[name][1])


def create(
  name: str,
  *,
  num_classes: int,
  method: Method | None = None,
  dtype: Any = jnp.float32,
  first_layer_dense: bool = False,
  last_layer_dense: bool = False,
  classifier_bias: bool | None = None,
  init: Mode = 'fan_in',
  density: float = 1.0,
  norm_momentum: float = 0.9,
  channels: Mapping[str, int] | None = None,
  lowering: str = 'xla',
  **sizes: Any,
) -> nn.Module:
  """A model by its name, with a sparsity method in its layers.

  It is called as `model.apply(variables, images, train=True,
  mutable=['batch_stats'])`, images NHWC, and returns float32 logits.

  Args:
    name: one of :func:`names`.
    num_classes: number of logits.
    method: sparsity method of every convolution and dense layer; None
      leaves them dense. That of fastgrnn is its matrices' alone.
    dtype: type to compute in; parameters and statistics are float32.
    first_layer_dense: leave the first convolution dense.
    last_layer_dense: leave the classifier dense.
    classifier_bias: whether the classifier has a bias; None is the model's
      own choice: no bias, as in the papers' networks, but for fastgrnn and
      vits.
    init: 'fan_in' or 'fan_out', see :func:`kaiming_normal`.
    density: expected fraction of non-zero weights, for the initialisation.
    norm_momentum: share of a running average that a BatchNorm keeps a step
      (PyTorch's momentum is 1 minus it).
    channels: output channels of single convolutions by their path, see
      `str_jax.models.ImageClassifier`: what a model that was cut down by
      `str_jax.compaction.compact` is built from.
    lowering: of convolutions and max-pools, see `str_jax.nn.Conv`.
    **sizes: what the model's row of the table holds, to make it smaller:
      `widths` of convnet, `stage_sizes` and `width` of resnets, `width` and
      `blocks` of mobilenet_v1, `stage_sizes` and `widths` of vggs; or
      `stage_sizes`, `width`, `widen` and `dropout` of wide resnets; or
      `hidden`, `w_rank`, `u_rank` and `gated` of fastgrnn; or `patch`,
      `width`, `depth`, `heads` and `mlp_ratio` of vits.

  Returns:
    The model, a `flax.linen.Module`.

  Raises:
    ValueError: an unknown name, size or init, a density out of range, or a
      setting that does nothing in this model.

  >>> import jax, jax.numpy as jnp, str_jax
  >>> method = str_jax.methods.create('str', init_value=-5.0)
  >>> model = create('convnet', num_classes=10, method=method, widths=(8,))
  >>> images = jnp.zeros((1, 8, 8, 1))
  >>> variables = model.init(jax.random.key(0), images)
  >>> params = jax.tree.map(jnp.shape, variables['params'])
  >>> params['stem']
  {'kernel': (3, 3, 1, 8), 'kernel_threshold': (1, 1, 1, 1)}
  >>> model.apply(variables, images, train=False).shape
  (1, 10)
  """
  unknown = sorted(set(sizes) - set(sizes_of(name)))
  model, known = _MODELS[name]
  if unknown:
    raise ValueError(
      f'the model {name} has no size {", ".join(unknown)}; it has '
      f'{", ".join(known)}.'
    )
  fields: dict[str, Any] = {**known, **sizes}
  if classifier_bias is not None:
    fields['classifier_bias'] = classifier_bias
  _refuse_other_than_default(
    name,
    first_layer_dense=first_layer_dense,
    last_layer_dense=last_layer_dense,
    init=init,
    density=density,
    norm_momentum=norm_momentum,
    channels=dict(channels or {}),
  )
  if model is FastGRNN:
    return FastGRNN(
      num_classes=num_classes, method=method, dtype=dtype, **fields
    )
  layer: dict[str, Any] = {'method': method, 'dtype': dtype}
  if model is ViT:
    fields |= {
      'dense_general': functools.partial(str_jax.nn.DenseGeneral, **layer),
      'norm': functools.partial(nn.LayerNorm, epsilon=1e-6, dtype=dtype),
    }
  else:
    layer['kernel_init'] = kaiming_normal(init, density)
    fields |= {
      'norm': functools.partial(
        nn.BatchNorm, momentum=norm_momentum, epsilon=1e-5, dtype=dtype
      ),
    }
  return model(
    num_classes=num_classes,
    conv=functools.partial(str_jax.nn.Conv, lowering=lowering, **layer),
    dense=functools.partial(str_jax.nn.Dense, **layer),
    max_pool=lowerings.max_pool if lowering == 'cpu' else nn.max_pool,
    first_layer_dense=first_layer_dense,
    last_layer_dense=last_layer_dense,
    channels=FrozenDict(channels or {}),
    **fields,
  )


def _refuse_other_than_default(name: str, **given: Any) -> None:
  """Settings that would do nothing are an error."""
  because, defaults = _NOT_OF.get(_MODELS[name][0], ('', {}))
  for setting, default in defaults.items():
    if given[setting] != default:
      raise ValueError(
        f'the model {name} has {because}, so leave {setting} at {default!r}; '
        f'got {given[setting]!r}.'
      )
