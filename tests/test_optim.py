import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from str_jax import methods, optim

PARAMS = {
  'conv': {
    'kernel': jnp.array([2.0, 0.0]),
    'kernel_threshold': jnp.array(-9.0),
  },
  'norm': {'scale': jnp.array([1.5]), 'bias': jnp.array([0.5])},
  'dense': {'bias': jnp.array([3.0])},
  'embed': {'embedding': jnp.array([7.0])},
}
RATES = dict(kernels=0.1, thresholds=0.2, norms=0.3, biases=0.4)
EXPECTED = {
  'conv': {'kernel': [0.2, 0.0], 'kernel_threshold': -1.8},
  'norm': {'scale': [0.45], 'bias': [0.15]},
  'dense': {'bias': [1.2]},
  'embed': {'embedding': [0.0]},
}


def step(tx, params, gradients):
  return tx.update(gradients, tx.init(params), params)[0]


def check(actual, expected):
  jax.tree.map(
    lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-6),
    actual,
    expected,
    is_leaf=lambda x: isinstance(x, (list, float)),
  )


def test_tied_thresholds_are_one_parameter():
  """Against the same number given to every layer: equal at every step."""
  rng = np.random.default_rng(0)
  kernels = {k: jnp.asarray(rng.normal(size=(4, 3)), 'f4') for k in 'abc'}
  method = methods.create('str', init_value=-1.0, granularity='global')

  def loss(kernels, thresholds):
    return sum(
      jnp.sum(jnp.sin(3 * method(w, thresholds[k])) ** 2)
      for k, w in kernels.items()
    )

  def tied_loss(params):
    leaves = {k: p['kernel'] for k, p in params.items()}
    return loss(leaves, {k: p['kernel_threshold'] for k, p in params.items()})

  def single_loss(params):
    return loss(params['kernels'], dict.fromkeys('abc', params['s']))

  clip = optax.clip_by_global_norm(0.5)
  sgd = optax.sgd(0.1, momentum=0.9)
  s = jnp.full((1, 1), -1.0)
  tied = {k: {'kernel': w, 'kernel_threshold': s} for k, w in kernels.items()}
  single = {'kernels': kernels, 's': s}
  runs = [
    (tied_loss, tied, optax.chain(optim.tie_thresholds(clip), sgd)),
    (single_loss, single, optax.chain(clip, sgd)),
  ]
  ends = []
  for fn, params, tx in runs:
    state, step = tx.init(params), jax.jit(jax.grad(fn))
    for _ in range(5):
      updates, state = tx.update(step(params), state, params)
      params = optax.apply_updates(params, updates)
    ends.append(params)
  tied, single = ends
  assert abs(float(single['s'][0, 0]) + 1) > 0.01
  for k in 'abc':
    np.testing.assert_allclose(
      tied[k]['kernel_threshold'], single['s'], rtol=1e-5
    )
    np.testing.assert_allclose(
      tied[k]['kernel'], single['kernels'][k], rtol=1e-4, atol=1e-6
    )


def test_tying_wants_thresholds():
  params = {'kernel': jnp.ones(2)}
  tx = optim.tie_thresholds()
  with pytest.raises(ValueError, match='none of the parameters is one'):
    tx.update(params, tx.init(params))


def test_each_kind_has_its_rate():
  zero = jax.tree.map(jnp.zeros_like, PARAMS)
  check(step(optim.decay(**RATES), PARAMS, zero), EXPECTED)


def test_coupled_decay_is_that_of_pytorchs_sgd():
  # v = m v + (g + wd p); p -= lr v, twice, by hand.
  params = {'kernel': jnp.array([1.0])}
  gradient = {'kernel': jnp.array([0.5])}
  tx = optax.chain(optim.decay(kernels=0.1), optax.sgd(0.2, momentum=0.9))
  state = tx.init(params)
  p, v = 1.0, 0.0
  for _ in range(2):
    updates, state = tx.update(gradient, state, params)
    params = optax.apply_updates(params, updates)
    v = 0.9 * v + (0.5 + 0.1 * p)
    p -= 0.2 * v
  np.testing.assert_allclose(params['kernel'], [p], rtol=1e-6)


def test_decoupled_decay_equals_adamw():
  schedule = optax.linear_schedule(0.1, 0.0, 5)
  mine = optax.chain(
    optax.adam(schedule),
    optim.decay(kernels=0.3, coupled=False, learning_rate=schedule),
  )
  theirs = optax.adamw(schedule, weight_decay=0.3)
  a = b = {'kernel': jnp.array([1.0, -2.0])}
  state_a, state_b = mine.init(a), theirs.init(b)
  for i in range(4):
    g = {'kernel': jnp.array([0.3, float(i)])}
    updates, state_a = mine.update(g, state_a, a)
    a = optax.apply_updates(a, updates)
    updates, state_b = theirs.update(g, state_b, b)
    b = optax.apply_updates(b, updates)
  np.testing.assert_allclose(a['kernel'], b['kernel'], rtol=1e-6)


def test_dense_kernels_have_a_rate_of_their_own():
  params = {
    'gated': {'kernel': jnp.ones(1), 'kernel_threshold': jnp.full(1, -5.0)},
    'dense': {'kernel': jnp.ones(1)},
  }
  zero = jax.tree.map(jnp.zeros_like, params)

  def rates(**settings):
    out = step(optim.decay(kernels=0.1, **settings), params, zero)
    return [round(float(out[k]['kernel'][0]), 6) for k in ('gated', 'dense')]

  assert rates() == rates(dense_kernels=None) == [0.1, 0.1]
  assert rates(dense_kernels=0.0) == [0.1, 0.0]
  assert rates(dense_kernels=0.3) == [0.1, 0.3]
  with pytest.raises(ValueError, match='decay of dense_kernels must be 0 or'):
    optim.decay(dense_kernels=-1.0)
  with pytest.raises(ValueError, match='set for kernels, but none'):
    optim.decay(kernels=0.1, dense_kernels=0.0).init(params['dense'])


def test_thresholds_of_a_plain_pytree_are_a_kind_too():
  params = {
    'params': {'w': jnp.ones(1)},
    'thresholds': {'w': jnp.full(1, -5.0)},
  }
  zero = jax.tree.map(jnp.zeros_like, params)
  out = step(optim.decay(thresholds=0.1), params, zero)
  check(out, {'params': {'w': [0.0]}, 'thresholds': {'w': [-0.5]}})


def test_keep_zeros_wants_kernels():
  with pytest.raises(ValueError, match="only net/b, net/w: keep the method 'f"):
    optim.keep_zeros().init({'net': {'w': jnp.ones(2), 'b': jnp.ones(2)}})


def test_keep_zeros_holds_back_decay_and_momentum():
  tx = optax.chain(
    optim.keep_zeros(),
    optim.decay(kernels=0.1),
    optax.sgd(0.1, momentum=0.9),
    optim.keep_zeros(),
  )
  params = {'kernel': jnp.array([0.0, 1.0]), 'bias': jnp.array([0.0])}
  # A momentum from before the weight was zeroed must not revive it.
  state = tx.init(params)
  state = jax.tree.map(lambda x: x + 1.0 if x.ndim else x, state)
  for _ in range(3):
    gradients = jax.tree.map(jnp.ones_like, params)
    updates, state = tx.update(gradients, state, params)
    params = optax.apply_updates(params, updates)
  assert params['kernel'][0] == 0
  assert params['kernel'][1] != 1 and params['bias'][0] != 0


def test_errors_say_what_is_wanted():
  with pytest.raises(ValueError, match='decay of norms must be 0 or more'):
    optim.decay(norms=-1.0)
  tx = optim.decay(thresholds=1e-4)
  with pytest.raises(ValueError, match='set for thresholds, but none of the'):
    tx.init({'kernel': jnp.ones(1)})
  optim.decay(thresholds=0.0).init({'kernel': jnp.ones(1)})
