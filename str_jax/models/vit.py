"""A vision transformer for small images, without BatchNorm or dropout."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from str_jax.models.base import ImageClassifier, Layer


class Attention(nn.Module):
  r"""Self-attention of tokens, each of its four maps a layer of its own.

  .. math:: y = W_o\, \mathrm{softmax}(q k^T / \sqrt{d})\, v, \qquad
     (q, k, v) = (W_q, W_k, W_v)\, x

  The names, shapes and results are those of Flax's
  ``MultiHeadDotProductAttention``, whose variables it takes. The bias of
  ``key`` is there for them alone: the softmax takes it out again.

  Args of ``__call__``: tokens ``(batch, tokens, width)``; returns the same
  shape.

  Attributes:
    heads: number of heads, which share the width.
    dense_general: class of the maps.

  Vaswani et al. (2017), section 3.2.

  >>> import jax, jax.numpy as jnp
  >>> layer = Attention(heads=2)
  >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 3, 8)))
  >>> shapes = jax.tree.map(jnp.shape, variables['params'])
  >>> shapes['query'], shapes['out']['kernel']
  ({'bias': (2, 4), 'kernel': (8, 2, 4)}, (2, 4, 8))
  """

  heads: int
  dense_general: Layer = nn.DenseGeneral

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    width = x.shape[-1]
    query, key, value = (
      self.dense_general((self.heads, width // self.heads), name=name)(x)
      for name in ('query', 'key', 'value')
    )
    x = nn.dot_product_attention(query, key, value, force_fp32_for_softmax=True)
    return self.dense_general(width, axis=(-2, -1), name='out')(x)


class EncoderBlock(nn.Module):
  """Attention and two dense layers, each behind a norm and added to its input.

  Args of ``__call__``: tokens ``(batch, tokens, width)``; returns the same
  shape.

  Attributes:
    heads: number of heads.
    mlp_ratio: width between the dense layers, over that of the tokens.
    dense: class of the dense layers.
    dense_general: class of the attention's maps.
    norm: class of the norms.

  Dosovitskiy et al. (ICLR 2021), section 3.1.

  >>> import jax, jax.numpy as jnp
  >>> block = EncoderBlock(heads=2, mlp_ratio=4)
  >>> variables = block.init(jax.random.key(0), jnp.ones((1, 3, 8)))
  >>> sorted(variables['params'])
  ['attention', 'attention_norm', 'mlp_in', 'mlp_norm', 'mlp_out']
  """

  heads: int
  mlp_ratio: float
  dense: Layer = nn.Dense
  dense_general: Layer = nn.DenseGeneral
  norm: Layer = nn.LayerNorm

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    width = x.shape[-1]
    attention = Attention(self.heads, self.dense_general, name='attention')
    x = x + attention(self.norm(name='attention_norm')(x))
    y = self.norm(name='mlp_norm')(x)
    y = nn.gelu(self.dense(int(self.mlp_ratio * width), name='mlp_in')(y))
    return x + self.dense(width, name='mlp_out')(y)


class ViT(ImageClassifier):
  """Patches of an image as tokens, encoder blocks, the tokens' mean.

  Positions are sines and cosines, so any image of whole patches fits. The
  layers start as Flax's do; `norm` is a LayerNorm, called without options.

  Attributes:
    patch: Side of a patch, in pixels.
    width: Of a token; a multiple of 4 and of `heads`.
    depth: Number of encoder blocks.
    heads: Heads of each attention.
    mlp_ratio: Width within a block's two dense layers, over `width`.
    dense_general: Class of the attention's maps.

  Raises:
    ValueError: If a size does not fit, the images are no whole patches, or
      `channels` is given: the blocks' outputs are added, so none can differ.

  Dosovitskiy et al. (ICLR 2021), with the mean and the positions of Beyer et
  al., Better plain ViT baselines for ImageNet-1k (2022).

  >>> import jax, jax.numpy as jnp
  >>> model = ViT(num_classes=10, width=8, depth=1, heads=2)
  >>> images = jnp.zeros((1, 8, 8, 3))
  >>> variables = model.init(jax.random.key(0), images)
  >>> sorted(variables['params'])
  ['block1', 'classifier', 'last_norm', 'stem']
  >>> model.apply(variables, images).shape
  (1, 10)
  """

  norm: Layer = nn.LayerNorm
  classifier_bias: bool = True
  patch: int = 4
  width: int = 192
  depth: int = 12
  heads: int = 3
  mlp_ratio: float = 4.0
  dense_general: Layer = nn.DenseGeneral

  def __post_init__(self) -> None:
    sizes = {'patch': 1, 'width': 4, 'depth': 0, 'heads': 1}
    for name, least in sizes.items():
      if getattr(self, name) < least:
        raise ValueError(
          f'ViT needs {name} to be {least} or more, got {getattr(self, name)}.'
        )
    if self.width % 4 or self.width % self.heads:
      raise ValueError(
        'ViT needs its width to be a multiple of 4 and of its heads, got '
        f'width {self.width} with {self.heads} heads.'
      )
    if int(self.mlp_ratio * self.width) < 1:
      raise ValueError(
        'ViT needs mlp_ratio times width to be 1 or more, got mlp_ratio '
        f'{self.mlp_ratio}.'
      )
    if self.channels:
      raise ValueError(
        'a ViT has no channels that can be set one by one, its blocks add '
        f'their outputs: leave channels out, got {dict(self.channels)}.'
      )
    super().__post_init__()

  def kernel_inputs(self) -> dict[tuple[int, ...], int]:
    shape = self.heads, self.width // self.heads
    return {(self.width, *shape): 0, (*shape, self.width): 1}

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    del train  # nothing differs
    height, width = x.shape[1:3]
    if height % self.patch or width % self.patch:
      raise ValueError(
        f'ViT needs images of whole patches of {self.patch} x {self.patch} '
        f'pixels, got images of {height} x {width}: set patch, or resize them.'
      )
    x = self.first_conv()(
      self.width,
      (self.patch, self.patch),
      strides=self.patch,
      padding='VALID',
      name='stem',
    )(x)
    n, rows, columns, _ = x.shape
    x = x + jnp.asarray(positions(rows, columns, self.width), x.dtype)
    x = x.reshape(n, rows * columns, self.width)
    for i in range(self.depth):
      x = EncoderBlock(
        self.heads,
        self.mlp_ratio,
        dense=self.dense,
        dense_general=self.dense_general,
        norm=self.norm,
        name=f'block{i + 1}',
      )(x)
    x = self.norm(name='last_norm')(x)
    return self.classify(x.reshape(n, rows, columns, self.width))


def positions(rows: int, columns: int, width: int) -> np.ndarray:
  r"""Sines and cosines of where a patch is, at falling frequencies.

  .. math:: (\sin x\omega_i, \cos x\omega_i, \sin y\omega_i, \cos y\omega_i),
     \qquad \omega_i = 10000^{-i/(n - 1)}, \quad i = 0 \ldots n - 1

  with n = width / 4.

  Args:
    rows: of patches.
    columns: of patches.
    width: of a token, a multiple of 4.

  Returns:
    float32 ``(1, rows, columns, width)``, to be added to the tokens.

  Chen, Xie and He, MoCo v3 (ICCV 2021), section 3; Beyer et al. (2022).

  >>> positions(2, 3, 8).shape
  (1, 2, 3, 8)
  >>> print(positions(2, 3, 4)[0, 1, 2].round(2))  # y is 1, x is 2
  [ 0.91 -0.42  0.84  0.54]
  """
  frequencies = 1e4 ** -np.linspace(0, 1, width // 4)
  y = np.arange(rows)[:, None, None] * frequencies
  x = np.arange(columns)[None, :, None] * frequencies
  x, y = np.broadcast_arrays(x, y)
  parts = [np.sin(x), np.cos(x), np.sin(y), np.cos(y)]
  return np.concatenate(parts, axis=-1)[None].astype(np.float32)
