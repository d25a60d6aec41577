"""Residual networks, as in PyTorch: ImageNet's and CIFAR's."""

import functools

import jax
from flax import linen as nn
from flax.core import FrozenDict

from str_jax.models.base import Channels, ImageClassifier, Layer


class _Block(nn.Module):
  """What the blocks share.

  Attributes:
    width: Channels of the block's 3x3 convolutions.
    stride: Of one 3x3 convolution; a basic block's first.
    projected: Whether the shortcut is a 1x1 convolution and a norm; else it is
      the input.
    conv: Class of the convolutions.
    norm: Class of the norms, given `use_running_average`.
    channels: Output channels by the convolution's name, where not by `width`.
  """

  width: int
  stride: int
  projected: bool
  conv: Layer
  norm: Layer
  channels: Channels = FrozenDict()


class BasicBlock(_Block):
  """Two 3x3 convolutions beside a shortcut."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    conv1, conv2 = (
      functools.partial(
        self.conv,
        self.channels.get(name, self.width),
        (3, 3),
        padding=1,
        use_bias=False,
        name=name,
      )
      for name in ('conv1', 'conv2')
    )
    y = nn.relu(self.norm(name='norm1')(conv1(strides=self.stride)(x)))
    y = self.norm(name='norm2')(conv2()(y))
    return nn.relu(y + _shortcut(self, x, self.width))


class Bottleneck(_Block):
  """1x1, 3x3 and 1x1 convolutions beside a shortcut; the 3x3 has the stride.

  The last has four times the channels of the others.
  """

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    width1, width2, width3 = (
      self.channels.get(name, width)
      for name, width in (
        ('conv1', self.width),
        ('conv2', self.width),
        ('conv3', 4 * self.width),
      )
    )
    conv = functools.partial(self.conv, use_bias=False)
    y = conv(width1, (1, 1), name='conv1')(x)
    y = nn.relu(self.norm(name='norm1')(y))
    y = conv(width2, (3, 3), strides=self.stride, padding=1, name='conv2')(y)
    y = nn.relu(self.norm(name='norm2')(y))
    y = self.norm(name='norm3')(conv(width3, (1, 1), name='conv3')(y))
    return nn.relu(y + _shortcut(self, x, 4 * self.width))


def _shortcut(block: _Block, x: jax.Array, features: int) -> jax.Array:
  """x itself, or a 1x1 convolution and a norm where the shape changes."""
  if not block.projected:
    return x
  x = block.conv(
    block.channels.get('shortcut', features),
    (1, 1),
    strides=block.stride,
    use_bias=False,
    name='shortcut',
  )(x)
  return block.norm(name='shortcut_norm')(x)


class ResNet(ImageClassifier):
  """Residual network (He et al., 2016), with PyTorch's strides and padding.

  Attributes:
    block: BasicBlock or Bottleneck.
    stage_sizes: Blocks in each stage.
    width: Channels of the stem and the first stage; each stage doubles it.
    small_images: CIFAR's stem, a 3x3 convolution, in place of ImageNet's,
      a 7x7 of stride 2 and a max-pool.
  """

  block: type[BasicBlock] | type[Bottleneck] = Bottleneck
  stage_sizes: tuple[int, ...] = (3, 4, 6, 3)
  width: int = 64
  small_images: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    norm = functools.partial(self.norm, use_running_average=not train)
    size, stride = (3, 1) if self.small_images else (7, 2)
    x = self.first_conv()(
      self.channels.get('stem', self.width),
      (size, size),
      strides=stride,
      padding=size // 2,
      use_bias=False,
      name='stem',
    )(x)
    x = nn.relu(norm(name='stem_norm')(x))
    if not self.small_images:
      x = self.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    for stage, blocks in enumerate(self.stage_sizes):
      for i in range(blocks):
        # Not read off the channels, which may be equal by chance.
        grows = stage > 0 or issubclass(self.block, Bottleneck)
        name = f'stage{stage + 1}_block{i + 1}'
        x = self.block(
          width=self.width * 2**stage,
          stride=2 if stage and i == 0 else 1,
          projected=i == 0 and grows,
          conv=self.conv,
          norm=norm,
          channels=self.channels_in(name),
          name=name,
        )(x)
    return self.classify(x)
