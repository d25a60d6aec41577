"""FastGRNN: its cell, its three kinds of matrices, its FLOPs, its errors."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import fastgrnn as configs
from str_jax import flops, methods, models
from str_jax.models import fastgrnn
from str_jax.paths import named_leaves
from str_jax.training import build
from str_jax.training import plan as plans

STR = methods.create('str', init_value=-1.0, g='exp')
KEY = jax.random.key(0, impl='rbg')


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def create(**settings):
  return models.create('fastgrnn', num_classes=3, hidden=4, **settings)


def fill(tree, seed=0):
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda x: rng.normal(0, 0.5, x.shape).astype('f'), tree)


def weight(matrix):
  """The matrix (in, out) that a layer's dense leaves come to."""
  if 'up' not in matrix:
    return matrix['kernel']
  if 'kernel' in matrix:
    return matrix['down'] @ np.diag(matrix['kernel']) @ matrix['up']
  return matrix['down']['kernel'] @ matrix['up']['kernel']


KINDS = {
  'full': {},
  'plain': {'w_rank': 2, 'u_rank': 3},
  'gated': {'gated': True},
  'gated_of_a_rank': {'gated': True, 'w_rank': 2, 'u_rank': 3},
  'without_w': {'w_rank': 0, 'u_rank': 1},
}


@pytest.mark.parametrize('kind', KINDS)
def test_it_is_the_published_recurrence(kind):
  model = create(**KINDS[kind])
  x = np.random.default_rng(1).standard_normal((2, 6, 5, 1), 'f')
  variables = fill(jax.eval_shape(model.init, KEY, x))
  params = variables['params']
  cell = params['cell']
  w = weight(cell['W']) if 'W' in cell else np.zeros((5, 4))
  u = weight(cell['U'])
  h = np.zeros((2, 4))
  for t in range(6):
    both = x[:, t, :, 0] @ w + h @ u
    z, c = sigmoid(both + cell['b_z']), np.tanh(both + cell['b_h'])
    h = (sigmoid(cell['zeta']) * (1 - z) + sigmoid(cell['nu'])) * c + z * h
  expected = h @ params['classifier']['kernel'] + params['classifier']['bias']
  np.testing.assert_allclose(model.apply(variables, x), expected, rtol=2e-5)


def test_initial_values_are_the_authors():
  params = create(gated=True).init(KEY, jnp.zeros((1, 2, 200, 1)))['params']
  cell = params['cell']
  for name, value in (('b_z', 1), ('b_h', 1), ('zeta', 1), ('nu', -4)):
    assert np.all(cell[name] == value), name
  for matrix in (cell['W'], cell['U']):
    assert np.all(matrix['kernel'] == 1)
  assert cell['W']['down'].shape == (200, 200)  # W1 is D x D
  assert cell['W']['up'].shape == (200, 4)
  assert cell['U']['down'].shape == cell['U']['up'].shape == (4, 4)
  assert np.std(cell['W']['down']) == pytest.approx(0.1, rel=0.02)
  full = create().init(KEY, jnp.zeros((1, 2, 200, 1)))['params']['cell']
  assert np.std(full['W']['kernel']) == pytest.approx(0.1, rel=0.1)


def test_an_input_is_rows_of_all_their_channels():
  model = create()
  x = np.random.default_rng(0).standard_normal((2, 3, 2, 4), 'f')
  variables = fill(jax.eval_shape(model.init, KEY, x))
  flat = model.apply(variables, x.reshape(2, 3, 1, 8))
  np.testing.assert_array_equal(model.apply(variables, x), flat)


def test_a_method_sees_the_gates_alone():
  model = create(gated=True, method=STR)
  params = jax.eval_shape(model.init, KEY, jnp.zeros((1, 2, 3, 1)))
  cell = params['params']['cell']
  for name, size in (('W', 3), ('U', 4)):
    assert cell[name]['kernel'].shape == (size,)
    assert cell[name]['kernel_threshold'].shape == (1,)
  assert set(params['params']['classifier']) == {'kernel', 'bias'}


def test_the_gates_gradients_are_those_of_str():
  sparse = fastgrnn.LowRank(features=4, gated=True, method=STR)
  dense = fastgrnn.LowRank(features=4, gated=True)
  x = np.random.default_rng(1).standard_normal((8, 5), 'f')
  params = fill(jax.eval_shape(dense.init, KEY, x))['params']
  m = np.array([1.0, -0.8, 0.3, -0.2, 0.5], 'f')
  s = np.array([-1.0], 'f')  # a threshold of 0.37
  effective = np.sign(m) * np.maximum(np.abs(m) - np.exp(s), 0)
  alive = effective != 0
  assert alive.sum() == 3

  def gradient(layer, **leaves):
    loss = lambda p: jnp.sum(layer.apply({'params': p}, x) ** 2)
    return jax.grad(loss)(params | leaves)

  got = gradient(sparse, kernel=m, kernel_threshold=s)
  wanted = gradient(dense, kernel=effective)
  for factor in ('down', 'up'):
    np.testing.assert_allclose(got[factor], wanted[factor], rtol=1e-5)
  np.testing.assert_allclose(got['kernel'], wanted['kernel'] * alive, rtol=1e-5)
  ds = -np.exp(s) * np.sum(wanted['kernel'] * np.sign(m) * alive)
  np.testing.assert_allclose(got['kernel_threshold'], ds, rtol=1e-5)


def test_flops_are_proportional_to_the_rank():
  steps, d, h = 6, 5, 4

  def count(**settings):
    return flops.count(create(**settings), (steps, d, 1))

  full, gated, plain = count(), count(gated=True), count(w_rank=2, u_rank=3)
  assert full == {
    'cell/W': steps * d * h,
    'cell/U': steps * h * h,
    'classifier': h * 3,
  }
  assert gated == {
    'cell/W': steps * d * (d + h),
    'cell/U': steps * h * (h + h),
    'classifier': h * 3,
  }
  for name, rank, size in (('W', 2, d), ('U', 3, h)):
    parts = [plain[f'cell/{name}/{part}'] for part in ('down', 'up')]
    assert sum(parts) * size == gated[f'cell/{name}'] * rank


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'first_layer_dense': True}, 'first_layer_dense at False; got True'),
    ({'last_layer_dense': True}, 'last_layer_dense at False; got True'),
    ({'init': 'fan_out'}, "init at 'fan_in'; got 'fan_out'"),
    ({'density': 0.5}, 'density at 1.0'),
    ({'norm_momentum': 0.99}, 'norm_momentum at 0.9'),
    ({'w_rank': -1}, 'w_rank .* 0 or more, got -1'),
    ({'hidden': 0}, 'hidden .* 1 or more, got 0'),
    ({'width': 3}, 'no size width; it has hidden, w_rank'),
  ],
)
def test_settings_that_make_no_sense(settings, message):
  with pytest.raises(ValueError, match=message):
    models.create('fastgrnn', num_classes=3, **settings)


def test_the_cell_alone():
  cell = fastgrnn.FastGRNNCell(4, w_rank=2, u_rank=2)
  h, x = jnp.zeros((3, 4)), jnp.ones((3, 5))
  variables = cell.init(KEY, h, x)
  new, out = cell.apply(variables, h, x)
  np.testing.assert_array_equal(new, out)
  assert new.shape == (3, 4)


# STR (ICML 2020), section 4.2: set, ranks (W, U), accuracy fixed and learned
# at those ranks, decay.
PAPER = """
  google12  12 40  92.79 94.45  .001
  google12  11 35  92.86 94.42  .001
  google12  10 31  92.86 94.25  .002
  google12  9  24  93.18 94.45  .005
  har2      9  8   94.06 95.76  .001
  har2      9  7   93.15 95.62  .001
  har2      8  7   94.88 95.59  .001
"""


@pytest.mark.parametrize('row', PAPER.strip().splitlines())
def test_the_papers_rows_are_variants(row):
  name, w, u, fixed, accuracy, decay = row.split()
  plain = configs.get_config(f'{name}-plain-{w}-{u}')
  assert (plain.model.w_rank, plain.model.u_rank) == (int(w), int(u))
  assert (plain.method.name, plain.optimizer.weight_decay) == ('dense', 0)
  suffix = '' if decay == '.001' else f'-0{decay}'
  learned = configs.get_config(name + suffix)
  assert re.search(
    rf'\({w}, {u}\) +{accuracy} +{learned.variant} +{fixed} +{plain.variant}$',
    configs.__doc__,
    re.MULTILINE,
  )
  assert learned.optimizer.weight_decay == float(decay)
  assert (learned.method.name, learned.method.g) == ('str', 'exp')
  assert learned.method.init_value <= -10
  for config in (plain, learned):
    assert (config.batch_size, config.total_epochs) == (100, 300)
    rate = plans.create(config, 1000).learning_rate
    np.testing.assert_allclose(rate(np.array([0, 1999])), 1e-2)
    np.testing.assert_allclose(rate(np.array([2000, 2999])), 1e-3)


def test_decay_is_on_the_gates_and_their_threshold():
  config = configs.get_config('digits')
  plan = plans.create(config, 1197)
  model = build.model(config, 10, plan.phases[0].method)
  shapes = jax.eval_shape(model.init, KEY, jnp.zeros((1, 8, 8, 1)))['params']
  params = jax.tree.map(lambda x: np.ones(x.shape, 'f'), shapes)
  tx = plans.optimizer(config, plan, plan.phases[0])
  zero = jax.tree.map(np.zeros_like, params)
  updates, _ = tx.update(zero, tx.init(params), params)
  moved = {p for p, u in named_leaves(updates).items() if np.any(u)}
  assert moved == {
    ('cell', matrix, leaf)
    for matrix in 'WU'
    for leaf in ('kernel', 'kernel_threshold')
  }
