"""What every image classifier here shares: its layers' classes, its head."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

Layer = Callable[..., Any]  # a layer's class, or a functools.partial of one


class ImageClassifier(nn.Module):
  """Base of the models: NHWC images in, float32 logits out.

  Attributes:
    num_classes: Number of logits.
    conv: Class of the convolutions.
    dense: Class of the classifier.
    norm: Class of the norms; it is given `use_running_average`.
    max_pool: The function, called as Flax's.
    classifier_bias: Whether the classifier has a bias.
    first_layer_dense: Whether the first convolution gets `method=None`.
    last_layer_dense: Whether the classifier gets `method=None`.
  """

  num_classes: int
  conv: Layer = nn.Conv
  dense: Layer = nn.Dense
  norm: Layer = nn.BatchNorm
  max_pool: Callable[..., jax.Array] = nn.max_pool
  classifier_bias: bool = False
  first_layer_dense: bool = False
  last_layer_dense: bool = False

  def first_conv(self) -> Layer:
    """The class of the first convolution."""
    # The keyword only where asked for: Flax's own layers do not know it.
    if self.first_layer_dense:
      return functools.partial(self.conv, method=None)
    return self.conv

  def classify(self, x: jax.Array) -> jax.Array:
    """Logits of feature maps: the global mean, then `classifier`."""
    options: dict[str, Any] = {'method': None} if self.last_layer_dense else {}
    classifier = self.dense(
      self.num_classes,
      use_bias=self.classifier_bias,
      name='classifier',
      **options,
    )
    return classifier(jnp.mean(x, axis=(1, 2))).astype(jnp.float32)
