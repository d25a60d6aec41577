"""What every image classifier here shares: its layers' classes, its head."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import FrozenDict

from str_jax.paths import kernels

Layer = Callable[..., Any]  # a layer's class, or a functools.partial of one
Channels = Mapping[str, int]  # output channels of convolutions, by name


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
    channels: Output channels of convolutions that have not the model's own
      number, by their path, such as `stage1_block1/conv1`. Those whose outputs
      are added need equal numbers; a depthwise one has those of its input.
      What `str_jax.compaction.compact` leaves is built by it.

  Raises:
    ValueError: If `channels` names what is no convolution of the model, or a
      number below 1.
  """

  num_classes: int
  conv: Layer = nn.Conv
  dense: Layer = nn.Dense
  norm: Layer = nn.BatchNorm
  max_pool: Callable[..., jax.Array] = nn.max_pool
  classifier_bias: bool = False
  first_layer_dense: bool = False
  last_layer_dense: bool = False
  channels: Channels = FrozenDict()

  def __post_init__(self) -> None:
    for name, width in self.channels.items():
      if not isinstance(width, int) or width < 1:
        raise ValueError(
          'channels needs whole numbers from 1 on, but has '
          f'{name!r}: {width!r}.'
        )
    super().__post_init__()

  def kernel_inputs(self) -> dict[tuple[int, ...], int]:
    """The axis of the inputs in kernels whose shape does not tell it."""
    return {}

  def first_conv(self) -> Layer:
    """The class of the first convolution."""
    # The keyword only where asked for: Flax's own layers do not know it.
    if self.first_layer_dense:
      return functools.partial(self.conv, method=None)
    return self.conv

  def channels_in(self, block: str) -> Channels:
    """The part of `channels` that is a block's, by the names inside it."""
    start = f'{block}/'
    return FrozenDict(
      {
        name.removeprefix(start): width
        for name, width in self.channels.items()
        if name.startswith(start)
      }
    )

  def classify(self, x: jax.Array) -> jax.Array:
    """Logits of feature maps: the global mean, then `classifier`."""
    self._check_channels()
    options: dict[str, Any] = {'method': None} if self.last_layer_dense else {}
    classifier = self.dense(
      self.num_classes,
      use_bias=self.classifier_bias,
      name='classifier',
      **options,
    )
    return classifier(jnp.mean(x, axis=(1, 2))).astype(jnp.float32)

  def _check_channels(self) -> None:
    """Called at the end, when every convolution has its kernel."""
    if not self.channels:
      return
    known = [
      name
      for name in kernels(self.variables['params'])
      # A depthwise one has the channels of its input.
      if name != 'classifier' and not name.endswith('/depthwise')
    ]
    unknown = sorted({*self.channels} - {*known})
    if unknown:
      raise ValueError(
        f'channels names {", ".join(unknown)}, but the convolutions of this '
        f'model that have a number of their own are {", ".join(known)}.'
      )


def methods_of(model: ImageClassifier) -> tuple[Any, Any]:
  """The methods that a model's layers are made with.

  Args:
    model: one of these.

  Returns:
    That of the convolutions and that of the classifier; None for Flax's own.
  """
  conv, dense = model.conv(1, (1, 1)), model.dense(1)
  return getattr(conv, 'method', None), getattr(dense, 'method', None)
