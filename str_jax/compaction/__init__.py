"""Cuts out what training zeroed: a smaller model that computes the same."""

from __future__ import annotations

from typing import Any

from str_jax.compaction import cut, fastgrnn
from str_jax.compaction.fastgrnn import describe, ranks
from str_jax.compaction.filters import DeadFilters, dead_filters
from str_jax.compaction.flow import KNOWN
from str_jax.models import FastGRNN

__all__ = ['DeadFilters', 'compact', 'dead_filters', 'describe', 'ranks']


def compact(model: Any, variables: Any) -> tuple[Any, Any]:
  r"""The same network without its dead filters, or its dead ranks.

  A filter whose effective weights are all zero is, after its norm, the
  constant

  .. math:: c = b - \frac{m\,g}{\sqrt{v + \epsilon}}

  and :math:`\max(0, c)` after a ReLU. It goes, and what it gave the next layer
  goes into the mean of that layer's norm, or the classifier's bias:

  .. math:: m'_o = m_o - \sum_i c_i\,k_{i,o}

  A zero padding would cut a constant off at the border; there one channel
  stays that is 1, with the weights :math:`\sum_i c_i\,k_{i,o}`. Also a channel
  that nothing reads goes, and so on until none is left to go. A channel of a
  residual stream goes when no writer varies it or no reader reads it. Every
  layer keeps one channel at least.

  Args:
    model: ConvNet, VGG, ResNet, WideResNet or MobileNetV1 of
      `str_jax.models`, with the method of the variables; or a FastGRNN with
      ``gated=True``, see `str_jax.compaction.fastgrnn`.
    variables: Linen collections, with the method's thresholds.

  Returns:
    (model, variables): the model without a method and with fewer
    ``channels`` (ranks of a FastGRNN), never larger, and its variables, as
    NumPy arrays.

  Raises:
    ValueError: another model, or variables that are not of the model and its
      method.

  STR (ICML 2020), section 4.2, for FastGRNN's ranks.

  >>> import jax, jax.numpy as jnp, str_jax
  >>> model = str_jax.models.create('convnet', num_classes=2, widths=(4, 4))
  >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
  >>> stem = variables['params']['stem']
  >>> stem['kernel'] = stem['kernel'].at[..., :3].set(0)
  >>> small, variables = compact(model, variables)
  >>> dict(small.channels)
  {'stem': 1}
  >>> jax.tree.map(jnp.shape, variables['params']['conv1'])
  {'kernel': (3, 3, 1, 4)}
  """
  if isinstance(model, FastGRNN):
    return fastgrnn.compact(model, variables)
  if type(model) not in KNOWN:
    known = [*(known.__name__ for known in KNOWN), FastGRNN.__name__]
    raise ValueError(
      f'compact knows the models {", ".join(known)} of str_jax.models, got a '
      f'{type(model).__name__}.'
    )
  return cut.compact(model, variables)
