"""Initial weights of the models."""

from typing import Literal, get_args

import jax

Mode = Literal['fan_in', 'fan_out']


def kaiming_normal(
  mode: Mode = 'fan_in', density: float = 1.0
) -> jax.nn.initializers.Initializer:
  r"""Kaiming He's normal initialisation, with a fan that may be sparse.

  .. math:: std = \sqrt{2 / (fan \cdot density)}

  A weight that is zero passes nothing on, so where only a fraction `density`
  of the weights is expected to stay, the fan shrinks by that fraction. STR's
  ImageNet networks use `fan_in` and density 1.

  Args:
    mode: 'fan_in' keeps the variance of the activations, 'fan_out' that of
      the gradients.
    density: Expected fraction of non-zero weights, in (0, 1].

  Returns:
    An initializer of kernels in Flax's layout: `(..., in, out)`.

  Raises:
    ValueError: If the mode is unknown or the density out of range.

  >>> import jax
  >>> init = kaiming_normal('fan_in', density=0.5)
  >>> w = init(jax.random.key(0), (3, 3, 64, 256))
  >>> print(f'{w.std():.3f}')  # sqrt(2 / (3 * 3 * 64 * 0.5))
  0.083
  """
  if mode not in get_args(Mode):
    raise ValueError(
      f"the initialisation should be 'fan_in' or 'fan_out', got {mode!r}."
    )
  if not 0 < density <= 1:
    raise ValueError(
      f'density must be in (0, 1], the fraction of weights that are not zero; '
      f'got {density}.'
    )
  return jax.nn.initializers.variance_scaling(2 / density, mode, 'normal')
