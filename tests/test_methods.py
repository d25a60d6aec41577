import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import METHODS

from str_jax import methods

W = np.random.default_rng(0).normal(size=(3, 3, 4, 8)).astype(np.float32) * 0.1


def leaves_of(method, w):
  leaves = (method.init_learned(w), method.init_computed(w))
  return tuple(leaf for leaf in leaves if leaf is not None)


@pytest.mark.usefixtures('strict')
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('name', METHODS)
def test_contract_of_a_method(name, dtype):
  method = METHODS[name]
  assert dataclasses.replace(method) == method
  assert hash(dataclasses.replace(method)) == hash(method)
  w = jnp.asarray(W, dtype)
  leaves = leaves_of(method, w)
  for leaf in leaves:
    assert leaf.ndim == w.ndim and leaf.dtype == jnp.float32
    jnp.broadcast_shapes(leaf.shape, w.shape)
  new = method.update({'k': w}, {'k': leaves}, jnp.int32(4))
  if new:
    (computed,) = new.values()
    assert computed.shape == leaves[-1].shape
    leaves = leaves[:-1] + (computed,)
  out = jax.jit(method)(w, *leaves)
  assert out.shape == w.shape and out.dtype == w.dtype
  # A threshold is compared with a weight, or with what a group of them has.
  compared = jnp.abs(method.compared(w)).astype(jnp.float32)
  zero = compared <= method.threshold(w, *leaves)
  np.testing.assert_array_equal(out == 0, jnp.broadcast_to(zero, w.shape))
  gradient = jax.grad(lambda w: method(w, *leaves).astype(jnp.float32).sum())(w)
  assert gradient.dtype == w.dtype and jnp.isfinite(gradient).all()


def test_str_gradient_of_s_is_the_papers():
  method = methods.create('str', init_value=-3.0, slope=0.5)
  w, s = jnp.asarray(W), jnp.full((1, 1, 1, 1), -3.0)
  upstream = jnp.asarray(np.random.default_rng(1).normal(size=W.shape), 'f4')
  out, vjp = jax.vjp(method, w, s)
  dw, ds = vjp(upstream)
  mask = np.asarray(out) != 0
  sigmoid = 1 / (1 + np.exp(3.0))
  expected = (
    -0.5 * sigmoid * (1 - sigmoid) * (upstream * np.sign(W) * mask).sum()
  )
  np.testing.assert_allclose(ds.ravel(), [expected], rtol=1e-4)
  np.testing.assert_array_equal(dw, np.where(mask, upstream, 0))


def test_str_a_filter_has_its_own_threshold():
  method = methods.create('str', granularity='filter', g='exp')
  s = jnp.log(jnp.linspace(0.01, 0.3, 8)).reshape(1, 1, 1, 8)
  out = method(jnp.asarray(W), s)
  for c, t in enumerate(np.linspace(0.01, 0.3, 8)):
    np.testing.assert_array_equal(
      np.asarray(out[..., c] != 0), np.abs(W[..., c]) > t
    )


@pytest.mark.parametrize('name', ['st3', 'st3_hard', 'st3_sigma'])
def test_st3_passes_the_gradient_straight_through(name):
  method = METHODS[name]
  upstream = jnp.asarray(np.random.default_rng(1).normal(size=W.shape), 'f4')
  _, vjp = jax.vjp(lambda w: method(w, jnp.full((1,) * 4, 0.1)), jnp.asarray(W))
  np.testing.assert_array_equal(vjp(upstream)[0], upstream)


def test_st3_is_dense_until_start_then_follows_the_cubic_ramp():
  method = methods.create('st3', sparsity=0.8, start_step=10, end_step=20)
  w = jnp.asarray(W)
  update = jax.jit(lambda step: method.update({'k': w}, {'k': ()}, step)['k'])
  for step in (0, 5, 10):
    t = update(jnp.int32(step))
    assert t == 0
    np.testing.assert_array_equal(method(w, t), w)
  for step in (11, 15, 19, 20, 1000):
    left = 1 - min((step - 10) / 10, 1)
    position = (W.size - 1) * 0.8 * (1 - left**3)
    zeros = int((method(w, update(jnp.int32(step))) == 0).sum())
    assert abs(zeros - (int(position + 1e-6) + 1)) <= (step < 20)


@pytest.mark.parametrize('sparsity', [0.0, 0.5, 0.9, 0.999])
def test_st3_threshold_is_the_interpolated_quantile(sparsity):
  method = methods.create('st3', sparsity=sparsity, end_step=1)
  a, b = jnp.asarray(W), jnp.asarray(W[0, 0] * 3)
  new = method.update({'a': a, 'b': b}, {'a': (), 'b': ()}, jnp.int32(1))
  both = np.abs(np.concatenate([a.ravel(), b.ravel()]).astype(np.float64))
  expected = np.quantile(both, sparsity)
  np.testing.assert_allclose(new['a'].ravel(), [expected], rtol=1e-6)
  np.testing.assert_array_equal(new['a'].ravel(), new['b'].ravel())


def test_st3_with_tied_weights_takes_their_magnitude():
  w = jnp.array([1.0, 1.0, 1.0, -1.0, 2.0])
  method = methods.create('st3', sparsity=0.4, end_step=1)
  assert method.update({'w': w}, {'w': ()}, jnp.int32(1))['w'] == 1.0


def test_st3_sigma_divides_by_the_shapes_norm():
  method = methods.create('st3_sigma', sparsity=0.7, end_step=1)
  a, b = jnp.asarray(W), jnp.asarray(W[0, 0] * 3)
  new = method.update({'a': a, 'b': b}, {'a': (), 'b': ()}, jnp.int32(1))
  sigma_a, sigma_b = 1 / np.sqrt(18), 1 / np.sqrt(12)
  both = np.concatenate(
    [np.abs(a).ravel() / sigma_a, np.abs(b).ravel() / sigma_b]
  )
  c = np.quantile(both, 0.7)
  np.testing.assert_allclose(new['a'].ravel(), [c * sigma_a], rtol=1e-5)
  np.testing.assert_allclose(new['b'].ravel(), [c * sigma_b], rtol=1e-5)
  zeros = sum(
    int((jnp.abs(w) <= new[k]).sum()) for k, w in (('a', a), ('b', b))
  )
  assert zeros == int((both.size - 1) * 0.7) + 1


def test_st3_final_rank_is_exact_where_float32_is_not():
  count = 25_502_912
  method = methods.create('st3', sparsity=0.9, end_step=1)
  rank, _ = jax.jit(lambda s: method._position(count, s))(jnp.int32(1))
  assert int(rank) == 22_952_619  # floor(25,502,911 * 0.9)


def test_the_whole_ramp_compiles_once():
  method = METHODS['st3']
  traces = []

  @jax.jit
  def update(w, step):
    traces.append(1)
    return method.update({'k': w}, {'k': ()}, step)

  for step in range(6):
    update(W, jnp.int32(step))
  assert len(traces) == 1


@pytest.mark.parametrize(
  ('name', 'settings', 'message'),
  [
    ('rigl', {}, "no method 'rigl'; the methods are dense, str, st3"),
    ('st3', {}, 'ST3 needs sparsity'),
    ('st3', {'sparsity': 90}, r'in \[0, 1\), got 90'),
    ('st3', {'sparsity': 1.0}, r'in \[0, 1\), got 1.0'),
    ('st3', {'sparsity': 0.5, 'start_step': 3, 'end_step': 3}, 'end_step=3'),
    ('str', {'g': 'tanh'}, "one of sigmoid, exp, got 'tanh'"),
    (
      'str',
      {'granularity': 'row'},
      "one of layer, filter, weight, global, got 'row'",
    ),
    ('str', {'slope': 0.0}, 'slope above 0'),
    ('str', {'init': -5.0}, 'no setting init; it has init_value'),
    ('dense', {'sparsity': 0.9}, 'no setting sparsity; it has none'),
    ('dense', {'end_steps': 9}, 'it has none.$'),
    (
      'str',
      {'target_nonzero': 5000},
      r'In code it is target=str_jax.methods.Target\(nonzero=5000\).$',
    ),
    (
      'st3',
      {'target': 0.9, 'target_floor': 8, 'start_steps': 3, 'end_steps': 9},
      r'code it is target=str_jax.methods.Target\(sparsity=0.9, floor=8\), '
      'start_step=3, end_step=9.$',
    ),
    ('str', {'target_sparsely': 0.9}, 'gradient_scale, rescale.$'),
  ],
)
def test_wrong_settings_are_one_clear_sentence(name, settings, message):
  with pytest.raises(ValueError, match=message):
    methods.create(name, **settings)


NUMBERS = {  # settings that are no numbers, by name
  'sparsity': 'a number or None',
  'start_step': 'a whole number',
  'end_step': 'a whole number',
  'every_steps': 'a whole number',
  'power': 'a number',
  'gradient_scale': 'a number or None',
  'init_value': 'a number',
  'slope': 'a number',
  'rate': 'a number',
  'target': 'a Target or a number or None',
}


@pytest.mark.parametrize('name', [n for n in methods.names() if n != 'dense'])
def test_numbers_are_numbers(name):
  words = {'budget', 'pattern', 'inputs', 'g', 'granularity', 'gradient'}
  flags = {'by_shape', 'rescale', 'hard'}
  known = {*methods.settings(name)}
  assert known <= {*NUMBERS} | words | flags
  for setting in known & {*NUMBERS}:
    wanted = f'needs {setting} to be {NUMBERS[setting]}, got '
    for value in ('0.9', True, np.True_, [0.9], np.ones(2)):
      with pytest.raises(ValueError, match=wanted):
        methods.create(name, **{setting: value})
    if 'None' not in wanted:
      with pytest.raises(ValueError, match=f'{wanted}None of type NoneType'):
        methods.create(name, **{setting: None})
  for setting in known & {'start_step', 'end_step', 'every_steps'}:
    with pytest.raises(ValueError, match='got 2.5 of type float: convert it'):
      methods.create(name, **{setting: 2.5})


def test_numbers_of_any_kind_are_numbers():
  st3 = methods.create('st3', sparsity=0.5, end_step=8)
  for half, eight in (
    (np.float64(0.5), np.int64(8)),
    (np.float32(0.5), 8.0),
    (np.array(0.5), np.array(8)),
    (jnp.bfloat16(0.5), jnp.int32(8)),
  ):
    assert methods.create('st3', sparsity=half, end_step=eight) == st3
    target = methods.create('gmp', target=half, budget='global').target
    assert target == methods.Target(0.5) == methods.Target(half)
  assert methods.create('st3', sparsity=0, end_step=1).sparsity == 0

  @jax.jit
  def start(s):  # as under vmap, for several starts at once
    return methods.create('str', init_value=s).init_learned(W)

  assert start(-5.0).ravel() == -5.0


def test_a_method_of_ones_own_has_its_numbers_checked():
  @dataclasses.dataclass(frozen=True)
  class Own(methods.Frozen):
    factor: float = 1.0
    shares: 'tuple[int, ...] | None' = (1,)
    rule: 'float | list[float]' = 1.0

  assert Own(2, rule=[1.0]).shares == (1,)
  with pytest.raises(ValueError, match='Own needs factor to be a number, got'):
    Own('2')

  @dataclasses.dataclass(frozen=True)
  class Local(methods.Frozen):
    own: 'Own | float' = 1.0  # a name of this function

  assert Local('2').own == '2'
