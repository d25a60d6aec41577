"""BatchNorm with PyTorch's running variance."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from str_jax.interop import torch as interop


@pytest.mark.parametrize('masked', [False, True])
def test_batch_norm_keeps_the_unbiased_variance(masked):
  x = np.random.default_rng(0).standard_normal((4, 3, 2), 'f')
  mask = jnp.arange(4)[:, None, None] < 3 if masked else None
  options = {'use_running_average': False, 'momentum': 0.75}
  ours, flax = interop.BatchNorm(**options), nn.BatchNorm(**options)
  variables = flax.init(jax.random.key(0), x)
  y, new = ours.apply(variables, x, mask=mask, mutable=['batch_stats'])
  expected, theirs = flax.apply(
    variables, x, mask=mask, mutable=['batch_stats']
  )
  np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
  used = x[:3] if masked else x
  np.testing.assert_allclose(
    new['batch_stats']['var'],
    0.75 + 0.25 * used.var((0, 1), ddof=1),
    rtol=1e-6,
  )
  np.testing.assert_allclose(
    new['batch_stats']['mean'], theirs['batch_stats']['mean'], rtol=1e-6
  )


def test_batch_norm_leaves_its_averages_in_evaluation():
  x = jnp.ones((4, 2))
  norm = interop.BatchNorm(use_running_average=True)
  variables = norm.init(jax.random.key(0), x)
  variables['batch_stats']['var'] *= 3
  _, new = norm.apply(variables, x, mutable=['batch_stats'])
  assert new['batch_stats']['var'].tolist() == [3, 3]
