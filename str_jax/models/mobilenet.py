"""MobileNetV1 (Howard et al., 2017)."""

import functools

import jax
from flax import linen as nn

from str_jax.models.base import ImageClassifier, Layer

# Channels and stride of each block.
BLOCKS = (
  (64, 1),
  (128, 2),
  (128, 1),
  (256, 2),
  (256, 1),
  (512, 2),
  *((512, 1),) * 5,
  (1024, 2),
  (1024, 1),
)


class SeparableBlock(nn.Module):
  """A 3x3 convolution of each channel by itself, then a 1x1 over channels.

  Attributes:
    features: Channels of the 1x1 convolution.
    stride: Of the depthwise convolution.
    conv: Class of the convolutions.
    norm: Class of the norms, given `use_running_average`.
  """

  features: int
  stride: int
  conv: Layer
  norm: Layer

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    channels = x.shape[-1]
    x = self.conv(
      channels,
      (3, 3),
      strides=self.stride,
      padding=1,
      feature_group_count=channels,
      use_bias=False,
      name='depthwise',
    )(x)
    x = nn.relu(self.norm(name='depthwise_norm')(x))
    x = self.conv(self.features, (1, 1), use_bias=False, name='pointwise')(x)
    return nn.relu(self.norm(name='pointwise_norm')(x))


class MobileNetV1(ImageClassifier):
  """Depthwise separable convolutions after a 3x3 stem of stride 2.

  Attributes:
    width: Multiplies the channels of the stem and of every block.
    blocks: Channels and stride of each block.
  """

  width: float = 1.0
  blocks: tuple[tuple[int, int], ...] = BLOCKS

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    norm = functools.partial(self.norm, use_running_average=not train)
    x = self.first_conv()(
      self.channels.get('stem', int(32 * self.width)),
      (3, 3),
      strides=2,
      padding=1,
      use_bias=False,
      name='stem',
    )(x)
    x = nn.relu(norm(name='stem_norm')(x))
    for i, (features, stride) in enumerate(self.blocks):
      name = f'block{i + 1}'
      x = SeparableBlock(
        features=self.channels.get(
          f'{name}/pointwise', int(features * self.width)
        ),
        stride=stride,
        conv=self.conv,
        norm=norm,
        name=name,
      )(x)
    return self.classify(x)
