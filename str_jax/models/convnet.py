"""A small ConvNet for small images, such as the 8 x 8 digits."""

import jax
from flax import linen as nn

from str_jax.models.base import ImageClassifier


class ConvNet(ImageClassifier):
  """3x3 convolutions with BatchNorm, a global mean and a classifier.

  The first convolution after the stem halves the image; the others keep it.

  Attributes:
    widths: Channels of each convolution, the stem's first.
  """

  widths: tuple[int, ...] = (32, 64, 64)

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    for i, width in enumerate(self.widths):
      conv = self.conv if i else self.first_conv()
      name = f'conv{i}' if i else 'stem'
      x = conv(
        self.channels.get(name, width),
        (3, 3),
        strides=2 if i == 1 else 1,
        padding=1,
        use_bias=False,
        name=name,
      )(x)
      x = self.norm(
        use_running_average=not train, name=f'norm{i}' if i else 'stem_norm'
      )(x)
      x = nn.relu(x)
    return self.classify(x)
