"""Values and gradients of the CPU lowerings, against XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import export, lax

from str_jax import lowering

pytestmark = pytest.mark.usefixtures('strict')

LAYOUT = ('NHWC', 'HWIO', 'NHWC')
# batch, height, width, channels, features, kernel, stride, groups, padding
COVERED = {
  '1x1': (3, 8, 8, 16, 32, 1, 1, 1, 'SAME'),
  '1x1 narrowing': (3, 7, 7, 32, 8, 1, 1, 1, 'VALID'),
  '1x1 stride 2': (3, 9, 8, 4, 6, 1, 2, 1, [(0, 0), (0, 0)]),
  '1x1 padded': (2, 6, 6, 4, 4, 1, 1, 1, [(1, 1), (1, 1)]),
  'stem of CIFAR': (5, 32, 32, 3, 16, 3, 1, 1, [(1, 1), (1, 1)]),
  'stem of MobileNet': (2, 32, 32, 3, 32, 3, 2, 1, 'SAME'),
  'stem of ResNet': (2, 33, 31, 3, 64, 7, 2, 1, [(3, 3), (3, 3)]),
  '16 channels': (7, 32, 32, 16, 16, 3, 1, 1, [(1, 1), (1, 1)]),
  '16 channels, odd': (3, 33, 31, 16, 16, 3, 1, 1, [(1, 1), (1, 1)]),
  'widening': (3, 32, 32, 16, 32, 3, 2, 1, [(1, 1), (1, 1)]),
  '64 channels': (23, 7, 7, 64, 64, 3, 1, 1, [(1, 1), (1, 1)]),
  '5x5': (130, 7, 8, 4, 4, 5, 1, 1, 'SAME'),
  'even kernel': (2, 8, 8, 4, 8, 2, 1, 1, 'SAME'),
  'one-sided padding': (2, 8, 8, 4, 8, 3, 1, 1, [(2, 0), (0, 3)]),
  'depthwise': (3, 7, 7, 16, 16, 3, 1, 16, [(1, 1), (1, 1)]),
  'depthwise stride 2': (2, 33, 31, 8, 8, 3, 2, 8, [(1, 1), (1, 1)]),
  'depthwise 5x5': (2, 12, 12, 8, 8, 5, 1, 8, 'SAME'),
}


def operands(case, dtype=np.float32):
  n, h, w, channels, features, k, _, groups, _ = case
  rng = np.random.default_rng(0)
  x = rng.standard_normal((n, h, w, channels))
  kernel = rng.standard_normal((k, k, channels // groups, features))
  return jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)


def train(conv, case, x, kernel):
  """The value and both gradients, dy being a sine along its numbers."""
  *_, stride, groups, padding = case

  @jax.jit
  def run(x, kernel):
    y, vjp = jax.vjp(
      lambda x, kernel: conv(
        x,
        kernel,
        (stride, stride),
        padding,
        lhs_dilation=(1, 1),
        rhs_dilation=(1, 1),
        dimension_numbers=LAYOUT,
        feature_group_count=groups,
        precision=None,
      ),
      x,
      kernel,
    )
    return y, *vjp(jnp.sin(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

  return run(x, kernel)


HALF = ('1x1', '16 channels', 'widening', 'depthwise', 'depthwise stride 2')


@pytest.mark.parametrize(
  'name, dtype',
  [(name, 'float32') for name in COVERED]
  + [(name, 'bfloat16') for name in HALF],
)
def test_error_is_that_of_plain_xla(name, dtype):
  case = COVERED[name]
  x, kernel = operands(case, dtype)
  fast = train(lowering.conv_general_dilated, case, x, kernel)
  plain = train(lax.conv_general_dilated, case, x, kernel)
  with jax.enable_x64(True):
    double = [jnp.asarray(np.asarray(a, np.float64)) for a in (x, kernel)]
    exact = train(lax.conv_general_dilated, case, *double)
    exact = [np.asarray(out) for out in exact]
  for ours, theirs, truth in zip(fast, plain, exact, strict=True):
    assert ours.dtype == theirs.dtype
    error, limit = (
      np.abs(np.asarray(out, np.float64) - truth).max()
      for out in (ours, theirs)
    )
    slack = 3 * jnp.finfo(jnp.float32).eps * np.abs(truth).max()
    assert error <= 2 * limit + slack


def test_on_the_cpu_covered_shapes_are_rewritten_and_elsewhere_not():
  case = COVERED['16 channels']
  x, kernel = operands(case)
  run = jax.jit(lambda x, k: train(lowering.conv_general_dilated, case, x, k))
  modules = {
    platform: export.export(run, platforms=[platform])(x, kernel).mlir_module()
    for platform in ('cpu', 'cuda')
  }
  assert 'stablehlo.while' in modules['cpu']
  assert 'stablehlo.while' not in modules['cuda']
  assert modules['cuda'].count('stablehlo.convolution') == 3


UNCOVERED: dict[str, tuple[tuple, tuple, dict]] = {
  'dilated kernel': ((2, 9, 9, 4), (3, 3, 4, 8), {'rhs_dilation': (2, 2)}),
  'dilated images': ((2, 9, 9, 4), (3, 3, 4, 8), {'lhs_dilation': (2, 2)}),
  'grouped': ((2, 9, 9, 4), (3, 3, 2, 8), {'feature_group_count': 2}),
  'two a channel': ((2, 9, 9, 4), (3, 3, 1, 8), {'feature_group_count': 4}),
  'batch groups': ((2, 9, 9, 4), (3, 3, 4, 8), {'batch_group_count': 2}),
  'layout': ((2, 4, 9, 9), (8, 4, 3, 3), {'dimension_numbers': None}),
  'one dimension': (
    (2, 9, 4),
    (3, 4, 8),
    {'dimension_numbers': ('NWC', 'WIO', 'NWC'), 'window_strides': (1,)},
  ),
  'no images': ((0, 9, 9, 4), (3, 3, 4, 8), {}),
  'no pixels': ((2, 2, 2, 4), (3, 3, 4, 8), {}),
  'sum type': (
    (2, 9, 9, 4),
    (3, 3, 4, 8),
    {'preferred_element_type': jnp.float32},
  ),
}


@pytest.mark.parametrize('name', UNCOVERED)
def test_uncovered_shapes_are_plain_xla_to_the_bit(name):
  lhs, rhs, options = UNCOVERED[name]
  options = {
    'window_strides': (1, 1),
    'padding': [(0, 0)] * (len(lhs) - 2),
    'dimension_numbers': LAYOUT,
  } | options
  rng = np.random.default_rng(0)
  x, kernel = (jnp.asarray(rng.random(s), jnp.float32) for s in (lhs, rhs))
  jaxprs = [
    str(jax.make_jaxpr(lambda x, k, f=f: f(x, k, **options))(x, kernel))
    for f in (lowering.conv_general_dilated, lax.conv_general_dilated)
  ]
  assert jaxprs[0] == jaxprs[1]


def test_vmap_gives_what_a_loop_gives():
  x, kernel = operands((2, 6, 6, 4, 8, 3, 2, 1, None))
  stack = jnp.stack([kernel, -2 * kernel])

  def loss(kernel):
    y = lowering.conv_general_dilated(
      x, kernel, (2, 2), [(1, 1), (1, 1)], dimension_numbers=LAYOUT
    )
    return (y**2).mean()

  got = jax.jit(jax.vmap(jax.grad(loss)))(stack)
  want = jnp.stack([jax.jit(jax.grad(loss))(k) for k in stack])
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_wrong_channels_get_the_message_of_jax():
  x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 4, 8))
  with pytest.raises(ValueError, match='feature dimension'):
    lowering.conv_general_dilated(
      x, kernel, (1, 1), 'SAME', dimension_numbers=LAYOUT
    )


# height, width, window, strides, padding
POOLS = {
  'stem of ResNet': (12, 11, (3, 3), (2, 2), ((1, 1), (1, 1))),
  'VGG': (8, 9, (2, 2), (2, 2), 'VALID'),
  'overlapping': (7, 6, (3, 2), (1, 1), 'SAME'),
  'strides beyond the window': (9, 10, (2, 1), (3, 2), 'VALID'),
  'one-sided': (6, 7, (3, 3), (2, 1), ((0, 2), (2, 0))),
}


@pytest.mark.parametrize('name', POOLS)
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_max_pool_is_that_of_flax_with_ties(name, dtype):
  h, w, shape, strides, padding = POOLS[name]
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.integers(0, 4, (3, h, w, 5)), dtype)  # many ties

  def run(pool):
    y, vjp = jax.vjp(lambda x: pool(x, shape, strides, padding), x)
    dy = jnp.arange(y.size).reshape(y.shape).astype(dtype) % 8
    return y, *vjp(dy)  # small integers: their sums are exact

  ours, flax = jax.jit(run, static_argnums=0), jax.jit(run, static_argnums=0)
  for got, want in zip(ours(lowering.max_pool), flax(nn.max_pool)):
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)


def test_max_pool_passes_on_what_it_does_not_cover():
  x = jnp.arange(12, dtype=jnp.int32).reshape(1, 3, 4, 1)
  y = lowering.max_pool(x, (2, 2), (1, 1))
  np.testing.assert_array_equal(y, nn.max_pool(x, (2, 2), (1, 1)))
  wide = jnp.arange(196.0, dtype=jnp.float32).reshape(1, 14, 14, 1)
  assert lowering.max_pool(wide, (12, 12)).shape == (1, 3, 3, 1)


def test_the_gradient_of_a_max_pool_elsewhere_is_xlas():
  x = jnp.zeros((1, 8, 8, 1), jnp.float32)
  run = jax.jit(jax.grad(lambda x: lowering.max_pool(x, (2, 2), (2, 2)).sum()))
  modules = {
    platform: export.export(run, platforms=[platform])(x).mlir_module()
    for platform in ('cpu', 'cuda')
  }
  assert 'select_and_scatter' not in modules['cpu']
  assert 'select_and_scatter' in modules['cuda']
