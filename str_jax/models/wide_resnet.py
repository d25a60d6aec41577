"""Wide residual networks (Zagoruyko and Komodakis, 2016)."""

import functools

import jax
from flax import linen as nn
from flax.core import FrozenDict

from str_jax.models.base import Channels, ImageClassifier, Layer


class WideBlock(nn.Module):
  """Two 3x3 convolutions, a norm before each, beside a shortcut.

  The shortcut takes the block's input as it is, or through a 1x1 convolution
  without a norm where the shape changes.

  Attributes:
    width: Channels of the convolutions.
    stride: Of the first convolution and of the shortcut's.
    projected: Whether the shortcut is a 1x1 convolution.
    conv: Class of the convolutions.
    norm: Class of the norms, given `use_running_average`.
    dropout: Class of the dropout, given its rate and `deterministic`.
    channels: Output channels by the convolution's name, where not `width`.
  """

  width: int
  stride: int
  projected: bool
  conv: Layer
  norm: Layer
  dropout: Layer
  channels: Channels = FrozenDict()

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
    y = nn.relu(self.norm(name='norm1')(x))
    y = nn.relu(self.norm(name='norm2')(conv1(strides=self.stride)(y)))
    y = conv2()(self.dropout(name='dropout')(y))
    if self.projected:
      x = self.conv(
        self.channels.get('shortcut', self.width),
        (1, 1),
        strides=self.stride,
        use_bias=False,
        name='shortcut',
      )(x)
    return x + y


class WideResNet(ImageClassifier):
  """Pre-activation residual network, `widen` times as wide, for CIFAR.

  A network of depth 6n + 4 has n blocks in each of its three stages. The stem
  is a convolution without a norm; a norm and a ReLU follow the last block.

  Dropout is between the two convolutions of a block and drops whole channels,
  as in ST-3 (stthree/models/backbones/resnet.py of
  github.com/vanderschuea/stthree); the paper drops single activations.
  Training needs `rngs={'dropout': key}` unless the rate is 0.

  Attributes:
    stage_sizes: Blocks in each stage.
    width: Channels of the stem.
    widen: The first stage has `widen * width` channels; each stage doubles it.
    dropout: Probability that a channel is dropped in training, in [0, 1).

  Raises:
    ValueError: If the rate of dropout is out of range.
  """

  stage_sizes: tuple[int, ...] = (5, 5, 5)
  width: int = 16
  widen: int = 2
  dropout: float = 0.0

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    if not 0 <= self.dropout < 1:
      raise ValueError(
        'dropout must be in [0, 1), the probability that a channel is '
        f'dropped; got {self.dropout}.'
      )
    norm = functools.partial(self.norm, use_running_average=not train)
    dropout = functools.partial(
      nn.Dropout,
      rate=self.dropout,
      broadcast_dims=(1, 2),
      deterministic=not train,
    )
    x = self.first_conv()(
      self.channels.get('stem', self.width),
      (3, 3),
      padding=1,
      use_bias=False,
      name='stem',
    )(x)
    for stage, blocks in enumerate(self.stage_sizes):
      for i in range(blocks):
        name = f'stage{stage + 1}_block{i + 1}'
        x = WideBlock(
          width=self.widen * self.width * 2**stage,
          stride=2 if stage and i == 0 else 1,
          projected=i == 0 and (stage > 0 or self.widen != 1),
          conv=self.conv,
          norm=norm,
          dropout=dropout,
          channels=self.channels_in(name),
          name=name,
        )(x)
    return self.classify(nn.relu(norm(name='last_norm')(x)))
