"""FastGRNN, with matrices that are full, low-rank, or of a learned rank."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from str_jax.methods import Method
from str_jax.nn import Dense, Sparse

_normal = nn.initializers.normal(0.1)  # as the cell's authors have it


class LowRank(Sparse, kw_only=True):
  r"""A matrix as the product of two, with a gate on each of its ranks.

  .. math:: y = x\,(W_1 \odot 1 m^T)\,W_2

  The gates m are the leaf ``kernel``: a method that zeroes some of them
  lowers the rank of the product, which is the number of the others. The
  factors ``down`` and ``up`` beside it are no kernels, so no method and no
  weight decay reaches them.

  Args of ``__call__``: inputs ``(..., in)``; returns ``(..., features)``.

  Attributes:
    features: size of the output.
    rank: of the product; None is the full one: ``in`` gates, or a single
      matrix where there are none; 0 is a matrix of zeros.
    gated: whether there are gates; a product without them is two layers
      ``down`` and ``up``, and a full matrix one ``kernel``, all of them open
      to methods.
    dtype: type to compute in; None is that of inputs and parameters.

  STR (ICML 2020), section 4.2.

  >>> import jax, jax.numpy as jnp, str_jax
  >>> method = str_jax.methods.create('str', init_value=-10.0, g='exp')
  >>> layer = LowRank(features=4, gated=True, method=method)
  >>> variables = layer.init(jax.random.key(0), jnp.ones((2, 3)))
  >>> jax.tree.map(jnp.shape, variables)
  {'params': {'down': (3, 3), 'kernel': (3,), 'kernel_threshold': (1,),
              'up': (3, 4)}}
  """

  features: int
  rank: int | None = None
  gated: bool = False
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    size = x.shape[-1]
    if self.rank == 0:
      return jnp.zeros((*x.shape[:-1], self.features), x.dtype)
    if self.gated:
      rank = size if self.rank is None else self.rank
      down = self.param('down', _normal, (size, rank))
      gates = self.param('kernel', nn.initializers.ones, (rank,))
      up = self.param('up', _normal, (rank, self.features))
      x, down, gates, up = promote_dtype(x, down, gates, up, dtype=self.dtype)
      return x @ (down * gates[jnp.newaxis]) @ up
    if self.rank is None:
      kernel = self.param('kernel', _normal, (size, self.features))
      x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
      return x @ kernel
    for name, width in (('down', self.rank), ('up', self.features)):
      x = Dense(
        width,
        use_bias=False,
        kernel_init=_normal,
        dtype=self.dtype,
        method=self.method,
        name=name,
      )(x)
    return x


class FastGRNNCell(nn.Module):
  r"""One step of FastGRNN, whose two gates share their matrices.

  .. math::
     z = \sigma(W x + U h + b_z), \qquad c = \tanh(W x + U h + b_h), \qquad
     h' = (\sigma(\zeta)(1 - z) + \sigma(\nu)) \odot c + z \odot h

  Args of ``__call__``: the state h ``(batch, hidden)`` and the inputs x
  ``(batch, in)``; returns the next state twice, as a scan wants it.

  Attributes:
    hidden: size of the state.
    w_rank: rank of W, see :class:`LowRank`.
    u_rank: rank of U.
    gated: whether W and U have gates on their ranks.
    method: sparsity method of W and U.
    dtype: type to compute in.

  FastGRNN (NeurIPS 2018), with the initial values of its authors' code
  (microsoft/EdgeML): both biases 1, zeta 1, nu -4, matrices normal with
  standard deviation 0.1.

  >>> import jax, jax.numpy as jnp
  >>> cell = FastGRNNCell(4, w_rank=2)
  >>> args = jnp.zeros((1, 4)), jnp.ones((1, 3))
  >>> variables = cell.init(jax.random.key(0), *args)
  >>> shapes = jax.tree.map(jnp.shape, variables['params'])
  >>> shapes['W'], shapes['U']
  ({'down': {'kernel': (3, 2)}, 'up': {'kernel': (2, 4)}}, {'kernel': (4, 4)})
  """

  hidden: int
  w_rank: int | None = None
  u_rank: int | None = None
  gated: bool = False
  method: Method | None = None
  dtype: Any = None

  @nn.compact
  def __call__(self, h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    def matrix(rank: int | None, name: str) -> LowRank:
      return LowRank(
        features=self.hidden,
        rank=rank,
        gated=self.gated,
        dtype=self.dtype,
        method=self.method,
        name=name,
      )

    ones = nn.initializers.ones
    b_z = self.param('b_z', ones, (1, self.hidden))
    b_h = self.param('b_h', ones, (1, self.hidden))
    zeta = self.param('zeta', ones, (1, 1))
    nu = self.param('nu', nn.initializers.constant(-4.0), (1, 1))
    both = matrix(self.w_rank, 'W')(x) + matrix(self.u_rank, 'U')(h)
    both, b_z, b_h, zeta, nu = promote_dtype(
      both, b_z, b_h, zeta, nu, dtype=self.dtype
    )
    z, c = nn.sigmoid(both + b_z), nn.tanh(both + b_h)
    h = (nn.sigmoid(zeta) * (1 - z) + nn.sigmoid(nu)) * c + z * h
    return h, h


class FastGRNN(nn.Module):
  """FastGRNN over the rows of its input, and a classifier of its last state.

  An input ``(batch, steps, width, channels)`` is read as ``steps`` vectors of
  ``width * channels`` features, so that it fits where images do. The state
  starts at zero. The classifier is dense whatever the method, and has a bias.

  Attributes:
    num_classes: number of logits.
    hidden: size of the state.
    w_rank: rank of W, see :class:`LowRank`.
    u_rank: rank of U.
    gated: whether W and U have gates on their ranks.
    method: sparsity method of W and U.
    classifier_bias: whether the classifier has a bias.
    dtype: type to compute in; parameters and logits are float32.

  Raises:
    ValueError: a size that is negative, or no state.

  STR (ICML 2020), section 4.2; FastGRNN (NeurIPS 2018).

  >>> import jax, jax.numpy as jnp
  >>> model = FastGRNN(num_classes=10, hidden=16, gated=True)
  >>> images = jnp.zeros((1, 8, 8, 1))
  >>> variables = model.init(jax.random.key(0), images)
  >>> jax.tree.map(jnp.shape, variables['params']['cell']['W'])
  {'down': (8, 8), 'kernel': (8,), 'up': (8, 16)}
  >>> model.apply(variables, images).shape
  (1, 10)
  """

  num_classes: int
  hidden: int = 32
  w_rank: int | None = None
  u_rank: int | None = None
  gated: bool = False
  method: Method | None = None
  classifier_bias: bool = True
  dtype: Any = jnp.float32

  def __post_init__(self) -> None:
    for name, least in (('hidden', 1), ('w_rank', 0), ('u_rank', 0)):
      value = getattr(self, name)
      if value is not None and value < least:
        raise ValueError(
          f'FastGRNN needs {name} to be {least} or more, got {value}.'
        )
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    del train  # nothing differs
    x = x.reshape(*x.shape[:2], -1).astype(self.dtype)
    scan = nn.scan(
      FastGRNNCell,
      variable_broadcast=True,
      split_rngs={'params': False},
      in_axes=1,
      out_axes=1,
    )
    cell = scan(
      hidden=self.hidden,
      w_rank=self.w_rank,
      u_rank=self.u_rank,
      gated=self.gated,
      dtype=self.dtype,
      method=self.method,
      name='cell',
    )
    h, _ = cell(jnp.zeros((x.shape[0], self.hidden), self.dtype), x)
    classifier = Dense(
      self.num_classes,
      use_bias=self.classifier_bias,
      dtype=self.dtype,
      name='classifier',
    )
    return classifier(h).astype(jnp.float32)
