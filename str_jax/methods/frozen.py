"""Frozen: the zeros of the weights stay, the other weights train on."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from str_jax import functional
from str_jax.methods import base


@dataclasses.dataclass(frozen=True)
class Frozen(base.Method):
  r"""Fine-tuning at a fixed pattern: a weight that is zero stays zero.

  .. math:: q = w, \qquad \partial L/\partial w = \partial L/\partial q\,
     1\{w \ne 0\}

  Used on the variables that :func:`str_jax.freeze` returns, together with
  :func:`str_jax.optim.keep_zeros`, which also holds back decay and momentum.

  ST-3 (WACV 2023), its released code: the fine-tuning after pruning.

  >>> import jax
  >>> w = jax.numpy.array([0.0, 2.0])
  >>> jax.grad(lambda w: Frozen()(w).sum())(w).tolist()
  [0.0, 1.0]
  """

  def __call__(self, w: jax.Array, *leaves: jax.Array) -> jax.Array:
    del leaves
    return functional.hard_threshold(w, 0.0)

  def threshold(self, w: jax.Array, *leaves: jax.Array) -> jax.Array:
    del leaves
    return jnp.zeros((1,) * w.ndim, jnp.float32)
