"""VGG networks for CIFAR."""

import jax
from flax import linen as nn

from str_jax.models.base import ImageClassifier


class VGG(ImageClassifier):
  """Stages of 3x3 convolutions, each stage ended by a 2x2 max-pool.

  Simonyan and Zisserman (2015), as is usual for CIFAR: BatchNorm after every
  convolution, and a global mean and one classifier in place of the three
  layers at the end. `vgg11`, `vgg13`, `vgg16` and `vgg19` are these; vgg16
  has 13 convolutions, up to 512 channels, and 14.7 million weights.

  The networks that ST-3's authors call so (stthree/models/backbones/vgg.py of
  github.com/vanderschuea/stthree) stop after three stages and 128 channels:
  `vgg11_st3`, `vgg13_st3`, `vgg16_st3` and `vgg19_st3`.

  Attributes:
    stage_sizes: Convolutions in each stage.
    widths: Channels of each stage.

  Raises:
    ValueError: If there are not as many widths as stages, or if the images
      are too small to be halved once a stage.

  >>> import jax, str_jax
  >>> model = str_jax.models.create('vgg16_st3', num_classes=10)
  >>> flops = str_jax.flops.count(model, (32, 32, 3))
  >>> len(flops), sum(flops.values())
  (8, 124454144)
  """

  stage_sizes: tuple[int, ...] = (2, 2, 3, 3, 3)
  widths: tuple[int, ...] = (64, 128, 256, 512, 512)

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    self._check(*x.shape[1:3])
    stages = zip(self.stage_sizes, self.widths, strict=True)
    for stage, (convolutions, width) in enumerate(stages, 1):
      for i in range(1, convolutions + 1):
        first = (stage, i) == (1, 1)
        conv = self.first_conv() if first else self.conv
        name = 'stem' if first else f'stage{stage}_conv{i}'
        x = conv(
          self.channels.get(name, width),
          (3, 3),
          padding=1,
          use_bias=False,
          name=name,
        )(x)
        norm = self.norm(use_running_average=not train, name=f'{name}_norm')
        x = nn.relu(norm(x))
      x = self.max_pool(x, (2, 2), strides=(2, 2))
    return self.classify(x)

  def _check(self, height: int, width: int) -> None:
    stages = len(self.stage_sizes)
    if len(self.widths) != stages:
      raise ValueError(
        f'a VGG needs a width for each stage, but stage_sizes has {stages} '
        f'and widths {len(self.widths)}.'
      )
    if min(height, width) < 2**stages:
      raise ValueError(
        f'a VGG of {stages} stages halves its images as often, so they need '
        f'{2**stages} pixels a side, but have {height} x {width}; take larger '
        'images or fewer stages.'
      )
