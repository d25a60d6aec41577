"""N:M patterns: exactly N of M stay, and any sparsity beyond it holds too."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import OPTIMIZED
from flax import linen as nn

import str_jax
from str_jax import functional, methods
from str_jax.methods import Target
from str_jax.methods.patterns import parse
from str_jax.paths import kernels

pytestmark = pytest.mark.usefixtures('strict')
RNG = np.random.default_rng(0)
KERNELS = {
  'stem': RNG.normal(size=(3, 3, 3, 8)),  # of 3 colours
  'conv': RNG.normal(size=(3, 3, 8, 16)) * 0.3,
  'depthwise': RNG.normal(size=(3, 3, 1, 16)),
  'classifier': RNG.normal(size=(16, 10)) * 2,
}
KERNELS = {name: jnp.asarray(w, 'f4') for name, w in KERNELS.items()}
FITTING = ('conv', 'classifier')
TOTAL = sum(w.size for w in KERNELS.values())
CONSTRAINED = sum(KERNELS[name].size for name in FITTING)
NAMES = ('st3', 'feather', 'gmp', 'dnw')


def create(name, **settings):
  if name != 'dnw':
    settings = {'start_step': 10, 'end_step': 20, **settings}
  return methods.create(name, **settings)


def variables_at(method, step=20):
  params = {name: {'kernel': w} for name, w in KERNELS.items()}
  variables = str_jax.add_thresholds(method, {'params': params})
  update = functools.partial(str_jax.update_thresholds, method)
  return jax.jit(update)(variables, step)


def effective(method, variables):
  params = jax.jit(functools.partial(str_jax.effective_params, method))(
    variables
  )
  return {name: np.asarray(w) for name, w in kernels(params).items()}


def zeros_at(method, step=20):
  out = effective(method, variables_at(method, step))
  return {name: int((w == 0).sum()) for name, w in out.items()}


def in_groups(w, m):
  """The weights as (groups, m): consecutive inputs of one output."""
  return np.moveaxis(np.asarray(w), -2, -1).reshape(-1, m)


def golden(w, n, m):
  """The n largest of every m, by sorting; the first of equal ones."""
  groups = in_groups(w, m)
  order = np.argsort(-np.abs(groups), axis=1, kind='stable')
  kept = np.zeros_like(groups)
  np.put_along_axis(
    kept, order[:, :n], np.take_along_axis(groups, order[:, :n], 1), 1
  )
  return kept


@pytest.mark.parametrize('pattern', ['1:2', '2:4', '1:4', '4:8', '3:8'])
@pytest.mark.parametrize('tied', [False, True])
def test_the_largest_of_every_m_inputs_stay(pattern, tied):
  n, m = parse('', pattern)
  for name in FITTING:
    w = jnp.round(KERNELS[name]) if tied else KERNELS[name]
    out = jax.jit(functional.keep_largest, static_argnums=(1, 2))(w, n, m)
    np.testing.assert_array_equal(in_groups(out, m), golden(w, n, m))


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('pattern', ['2:4', '1:4', '4:8'])
@pytest.mark.parametrize('name', NAMES)
def test_a_pattern_alone_is_kept_to_the_weight(name, pattern, dtype):
  """Of weights that no group ties in; bfloat16's do, and are told apart."""
  n, m = parse('', pattern)
  method = create(name, sparsity=0.0, pattern=pattern)
  leaf = variables_at(method)['thresholds']['conv']['kernel_threshold']
  w = KERNELS['conv'].astype(dtype)
  counts = (in_groups(method(w, leaf), m) != 0).sum(1)
  assert set(counts.tolist()) == {n}
  zeros = zeros_at(method)
  for layer in FITTING:
    assert zeros[layer] == KERNELS[layer].size * (m - n) // m
  # What M does not divide has none (ST-3 of a sparsity of 0 zeroes one).
  assert zeros['stem'] == zeros['depthwise'] == 0


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('sparsity', [0.3, 0.6, 0.9])
def test_a_sparsity_over_the_net_and_the_pattern_both_hold(name, sparsity):
  method = create(name, sparsity=sparsity, budget='global', pattern='2:4')
  out = effective(method, variables_at(method))
  for layer in FITTING:
    assert ((in_groups(out[layer], 4) != 0).sum(1) <= 2).all()
  zeros = sum((w == 0).sum() for w in out.values())
  asked = math.ceil(round(sparsity * TOTAL, 6))
  if name == 'st3':
    asked = math.floor((TOTAL - 1) * sparsity) + 1
  assert zeros == max(asked, CONSTRAINED // 2)


@pytest.mark.parametrize('budget', ['uniform', 'erk'])
def test_a_budget_by_layer_and_the_pattern_both_hold(budget):
  shapes = {name: w.shape for name, w in KERNELS.items()}
  for sparsity in (0.3, 0.8):
    method = create('gmp', sparsity=sparsity, budget=budget, pattern='2:4')
    shares = str_jax.budgets.resolve(budget, shapes, sparsity)
    for layer, zeros in zeros_at(method).items():
      size = KERNELS[layer].size
      asked = math.ceil(round(shares[layer] * size, 6))
      assert zeros == max(asked, size // 2 if layer in FITTING else 0)


@pytest.mark.parametrize('name', ['st3', 'gmp'])
@pytest.mark.parametrize('floor', [0, 20])
def test_a_target_and_the_pattern_both_hold(name, floor):
  budget = {'budget': 'global'} if name == 'gmp' else {}
  for target in (0.5, 0.85):
    asked = Target(target, floor=floor)
    method = create(name, target=asked, pattern='1:4', **budget)
    out = effective(method, variables_at(method))
    left = sum((w != 0).sum() for w in out.values())
    most = TOTAL - CONSTRAINED * 3 // 4  # what the pattern leaves
    assert left == min(asked.kept(TOTAL), most)
    assert all((w != 0).sum() >= floor for w in out.values())


def test_what_stays_is_golden_by_numpy():
  """The largest in each group, and of them all the largest of the net."""
  method = create('gmp', sparsity=0.9, budget='global', pattern='2:4')
  out = effective(method, variables_at(method))
  left = {
    layer: golden(w, 2, 4) if layer in FITTING else in_groups(w, 1)
    for layer, w in KERNELS.items()
  }
  magnitudes = np.sort(
    np.abs(np.concatenate([x.ravel() for x in left.values()]))
  )
  t = magnitudes[math.ceil(0.9 * TOTAL) - 1]
  for layer, w in left.items():
    expected = np.where(np.abs(w) > t, w, 0)
    m = 4 if layer in FITTING else 1
    np.testing.assert_array_equal(in_groups(out[layer], m), expected)


def test_the_whole_pattern_holds_right_after_the_start():
  for name in ('st3', 'feather', 'gmp'):
    method = create(name, sparsity=0.0, pattern='2:4')
    for w in effective(method, variables_at(method, 10)).values():
      assert (w != 0).all()
    assert zeros_at(method, 11)['conv'] == KERNELS['conv'].size // 2
  # Beyond it the sparsity rises on its ramp.
  method = create('gmp', sparsity=0.9, pattern='2:4')
  course = [zeros_at(method, step)['conv'] for step in (11, 12, 14, 16, 20)]
  size = KERNELS['conv'].size
  assert course[0] == size // 2 and course == sorted(course)
  assert course[-1] == math.ceil(0.9 * size)


def test_gradients_of_what_the_pattern_zeroes_are_the_methods_own():
  w = KERNELS['conv']
  kept = np.asarray(functional.keep_largest(w, 2, 4)) != 0
  upstream = jnp.asarray(RNG.normal(size=w.shape), 'f4')
  for method, share in (
    (create('gmp', sparsity=0.0, pattern='2:4'), 0.0),
    (create('gmp', sparsity=0.0, gradient='straight', pattern='2:4'), 1.0),
    (create('dnw', sparsity=0.0, pattern='2:4'), 1.0),
    (create('st3', sparsity=0.0, pattern='2:4'), 1.0),
    (create('feather', sparsity=0.0, pattern='2:4'), 1.0),
    (create('feather', sparsity=0.0, gradient_scale=0.25, pattern='2:4'), 0.25),
  ):
    t = variables_at(method)['thresholds']['conv']['kernel_threshold']
    out, vjp = jax.vjp(lambda w, m=method, t=t: m(w, t), w)
    np.testing.assert_array_equal(out != 0, kept)
    np.testing.assert_array_equal(
      vjp(upstream)[0], upstream * np.where(kept, 1, np.float32(share))
    )


def test_what_stays_of_the_values_is_each_methods_own():
  w = KERNELS['conv']
  kept = np.asarray(functional.keep_largest(w, 2, 4))
  for name in ('gmp', 'dnw', 'feather', 'st3'):
    more = {'rescale': False} if name == 'st3' else {}
    method = create(name, sparsity=0.0, pattern='2:4', **more)
    t = variables_at(method)['thresholds']['conv']['kernel_threshold']
    np.testing.assert_allclose(method(w, t), kept, rtol=1e-6)


def test_no_sort_and_no_gather_in_the_update():
  method = create('st3', sparsity=0.8, pattern='2:4')
  params = {name: {'kernel': w} for name, w in KERNELS.items()}
  variables = str_jax.add_thresholds(method, {'params': params})
  update = jax.jit(
    functools.partial(str_jax.update_thresholds, method),
    compiler_options=OPTIMIZED,
  )
  text = update.lower(variables, 20).compile().as_text()
  assert ' sort(' not in text and ' gather(' not in text


@pytest.mark.parametrize('pattern', ['4', '4:2', '2:2', '0:4', '2:4:8', 'a:b'])
def test_a_wrong_pattern_is_one_clear_sentence(pattern):
  message = f"GMP needs a pattern 'N:M' with 1 <= N < M.*got '{pattern}'"
  with pytest.raises(ValueError, match=message):
    methods.create('gmp', sparsity=0.0, pattern=pattern)


def test_the_settings_of_a_pattern_are_named():
  assert "pattern='2:4'" in str(create('st3', sparsity=0.0, pattern='2:4'))
  with pytest.raises(ValueError, match='str has no setting pattern'):
    methods.create('str', pattern='2:4')


# Flax's attention of 16 numbers, 4 heads and 8 a head; a Conv over a sequence.
QUERY, OUT, CONV1D = (16, 4, 8), (4, 8, 16), (4, 8, 6)


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize(
  ('shape', 'inputs', 'matrix'),
  [
    (QUERY, {QUERY: 0, OUT: 1}, lambda w: w.reshape(16, 32)),
    (OUT, {QUERY: 0, OUT: 1}, lambda w: w.reshape(32, 16)),
    (OUT, {OUT: -2}, lambda w: w.reshape(32, 16)),
    (CONV1D, -2, lambda w: w.transpose(1, 0, 2).reshape(8, 24)),
  ],
)
def test_of_three_axes_it_runs_along_the_inputs(name, shape, inputs, matrix):
  """Of the matrix that the layer multiplies by, every group of a column."""
  w = jnp.asarray(RNG.normal(size=shape), 'f4')
  method = create(name, sparsity=0.0, pattern='2:4', inputs=inputs)
  variables = str_jax.add_thresholds(method, {'params': {'kernel': w}})
  variables = str_jax.update_thresholds(method, variables, 20)
  out = np.asarray(str_jax.effective_params(method, variables)['kernel'])
  kept = in_groups(matrix(out), 4)
  np.testing.assert_array_equal(
    kept != 0, golden(matrix(np.asarray(w)), 2, 4) != 0
  )
  assert hash(method) == hash(
    create(name, sparsity=0.0, pattern='2:4', inputs=method.inputs)
  )


def test_three_axes_whose_inputs_nobody_names_are_refused():
  method = create('gmp', sparsity=0.0, pattern='2:4')
  query = {'attention': {'query': {'kernel': jnp.ones(QUERY)}}}
  said = r'attention/query/kernel: .*inputs=\{\(16, 4, 8\): 0\}'
  with pytest.raises(ValueError, match=said):
    str_jax.add_thresholds(method, {'params': query})
  layer = str_jax.nn.DenseGeneral((4, 8), method=method)
  with pytest.raises(ValueError, match=r'/layers_1: .*\(16, 4, 8\): 0'):
    nn.Sequential([nn.relu, layer]).init(jax.random.key(0), jnp.ones((2, 16)))
  # Whatever they are, 4 divides none of these.
  kernel = {'params': {'kernel': jnp.ones((3, 6, 8))}}
  variables = str_jax.add_thresholds(method, kernel)
  assert str_jax.update_thresholds(method, variables, 20)


def test_a_matrix_of_another_layout_is_named_by_its_shape():
  """Equinox has (out, in)."""
  w = jnp.asarray(RNG.normal(size=(8, 4)), 'f4')
  method = create('dnw', sparsity=0.0, pattern='2:4', inputs={(8, 4): 1})
  kept = np.asarray(method(w, jnp.full((1, 1), 1e-30)))
  np.testing.assert_array_equal(in_groups(kept.T, 4), golden(w.T, 2, 4))


@pytest.mark.parametrize(
  'inputs', ['in', 3, {(8, 4): 2}, {(8, 4): 'in'}, {8: 0}, ()]
)
def test_wrong_inputs_are_one_clear_sentence(inputs):
  with pytest.raises(ValueError, match='GMP needs inputs to be the axis of'):
    create('gmp', sparsity=0.0, pattern='2:4', inputs=inputs)


def test_inputs_are_for_a_pattern():
  with pytest.raises(ValueError, match='inputs for a pattern alone'):
    create('gmp', sparsity=0.0, inputs=-2)
