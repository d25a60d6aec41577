"""GMP, DNW, Feather and ST-3 under a budget: what is asked for is there."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import str_jax
from str_jax import budgets, methods
from str_jax.paths import layer_name

pytestmark = pytest.mark.usefixtures('strict')
RNG = np.random.default_rng(0)
WEIGHTS = {
  'stem/kernel': jnp.asarray(RNG.normal(size=(3, 3, 3, 8)), 'f4'),
  'conv/kernel': jnp.asarray(RNG.normal(size=(3, 3, 8, 16)) * 0.3, 'f4'),
  'classifier/kernel': jnp.asarray(RNG.normal(size=(16, 10)) * 2, 'f4'),
}
LAYERS = [layer_name(path) for path in WEIGHTS]
SHAPES = {layer_name(p): w.shape for p, w in WEIGHTS.items()}
SIZES = {layer: int(np.prod(shape)) for layer, shape in SHAPES.items()}
GIVEN = {'stem': 0.25, 'conv': 0.987, 'classifier': 1.0}
NAMES = ('gmp', 'dnw', 'feather', 'st3')


def zeros_at(method, step, weights=WEIGHTS):
  """Exact zeros of the effective weights, by layer."""
  new = jax.jit(method.update)(weights, {p: () for p in weights}, step)
  return {
    layer_name(p): int((method(w, new[p]) == 0).sum())
    for p, w in weights.items()
  }


def create(name, **settings):
  if name != 'dnw':
    settings = {'start_step': 10, 'end_step': 20, **settings}
  return methods.create(name, **settings)


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('budget', ['uniform', 'erk', 'given'])
def test_a_budget_is_kept_to_the_weight(name, budget):
  if budget == 'given':
    more = {'gradient_scale': 1.0} if name == 'feather' else {}
    method, wanted = create(name, budget=GIVEN, **more), GIVEN
  else:
    method = create(name, sparsity=0.8, budget=budget)
    wanted = getattr(budgets, budget)(SHAPES, 0.8)
  expected = {k: int(np.ceil(wanted[k] * SIZES[k] - 1e-6)) for k in LAYERS}
  assert zeros_at(method, 20) == expected
  assert zeros_at(method, 10_000) == expected


@pytest.mark.parametrize('name', ['gmp', 'dnw', 'feather'])
@pytest.mark.parametrize('sparsity', [0.0, 0.07, 0.5, 0.9, 0.999])
def test_a_global_sparsity_is_kept_to_the_weight(name, sparsity):
  method = create(name, sparsity=sparsity, budget='global')
  total = sum(SIZES.values())
  assert sum(zeros_at(method, 20).values()) == int(
    np.ceil(sparsity * total - 1e-6)
  )


def test_a_learned_budget_comes_back_to_the_weight():
  """What STR learned, spent by another method: no weight more or less."""
  method = methods.create('str', init_value=-1.2)
  kernels = {k: {'kernel': WEIGHTS[f'{k}/kernel']} for k in LAYERS}
  variables = str_jax.add_thresholds(method, {'params': kernels})
  learned = str_jax.report.sparsity_report(method, variables)
  spent = methods.create('gmp', budget=budgets.from_report(learned))
  again = str_jax.add_thresholds(spent, {'params': kernels})
  again = str_jax.update_thresholds(spent, again, 1)
  pruned = str_jax.report.sparsity_report(spent, again)
  assert [r.nonzero for r in pruned.rows] == [r.nonzero for r in learned.rows]
  assert 0 < learned.sparsity < 1


def test_held_per_epoch_st3_is_dense_in_its_first_one():
  method = create('st3', sparsity=0.8, every_steps=10, end_step=40)
  for step in (10, 11, 19):
    assert method.update(WEIGHTS, {}, jnp.int32(step))['stem/kernel'] == 0
  assert method.update(WEIGHTS, {}, jnp.int32(20))['stem/kernel'] > 0


@pytest.mark.parametrize('name', ['gmp', 'feather', 'st3'])
@pytest.mark.parametrize('budget', ['global', 'uniform'])
def test_dense_until_start_then_the_cubic_ramp(name, budget):
  method = create(name, sparsity=0.8, budget=budget)
  assert sum(zeros_at(method, 10).values()) == 0
  total = sum(SIZES.values())
  for step in (11, 15, 19):
    wanted = 0.8 * total * (1 - (1 - (step - 10) / 10) ** 3)
    assert abs(sum(zeros_at(method, step).values()) - wanted) <= len(LAYERS)


def test_before_the_ramp_a_layer_is_dense_bit_for_bit():
  w, none = WEIGHTS['conv/kernel'], jnp.zeros((1,) * 4)
  for name in NAMES:
    out = create(name, sparsity=0.8)(w, none)
    np.testing.assert_array_equal(out, w)


def test_a_ratio_held_per_epoch_is_the_released_codes():
  """STR's GMP: (e - first) / (last - first + 1), cubed, in epoch e."""
  per_epoch, first, last, rate = 7, 2, 6, 0.9
  method = methods.create(
    'gmp',
    sparsity=rate,
    start_step=first * per_epoch,
    end_step=(last + 1) * per_epoch,
    every_steps=per_epoch,
  )
  portion = jax.jit(method.portion)
  for step in range(10 * per_epoch):
    epoch = step // per_epoch
    decay = (1 - (epoch - first) / (last - first + 1)) ** 3
    wanted = 0.0 if epoch < first else rate - rate * decay
    wanted = rate if epoch > last else wanted
    np.testing.assert_allclose(
      portion(jnp.int32(step)) * rate, wanted, rtol=1e-5, atol=1e-7
    )
  assert method.settled_step == 7 * per_epoch


def test_a_ramp_that_ends_within_an_epoch_settles_at_its_end():
  method = methods.create('gmp', sparsity=0.5, end_step=10, every_steps=4)
  assert method.settled_step == 12
  assert sum(zeros_at(method, 11).values()) < sum(zeros_at(method, 12).values())


def upstream_gradient(method, w, t):
  upstream = jnp.asarray(RNG.normal(size=w.shape), 'f4')
  out, vjp = jax.vjp(lambda w: method(w, t), w)
  return np.asarray(out), upstream, vjp(upstream)[0]


def test_gradients_of_zeroed_weights():
  w, t = WEIGHTS['conv/kernel'], jnp.full((1,) * 4, 0.2)
  kept = np.abs(np.asarray(w)) > np.float32(0.2)
  half = functools.partial(methods.create, 'feather', gradient_scale=0.25)
  for method, share in (
    (create('gmp', sparsity=0.5), 0.0),
    (create('gmp', sparsity=0.5, gradient='straight'), 1.0),
    (create('dnw', sparsity=0.5), 1.0),
    (create('feather', sparsity=0.95), 1.0),
    (create('feather', sparsity=0.96), 0.5),
    (half(sparsity=0.99), 0.25),
  ):
    out, upstream, gradient = upstream_gradient(method, w, t)
    np.testing.assert_array_equal(out != 0, kept)
    np.testing.assert_array_equal(
      gradient, upstream * np.where(kept, np.float32(1), np.float32(share))
    )


def test_hard_methods_keep_values_and_feather_takes_the_cube_root():
  w, t = WEIGHTS['conv/kernel'], 0.2
  wide = np.asarray(w, np.float64)
  kept = np.abs(wide) > np.float32(t)
  leaf = jnp.full((1,) * 4, t)
  for name in ('gmp', 'dnw'):
    out = create(name, sparsity=0.5)(w, leaf)
    np.testing.assert_array_equal(out, np.where(kept, w, 0))
  cubes = np.maximum(np.abs(wide) ** 3 - np.float64(np.float32(t)) ** 3, 0)
  np.testing.assert_allclose(
    create('feather', sparsity=0.5)(w, leaf),
    np.where(kept, np.sign(wide) * np.cbrt(cubes), 0),
    rtol=2e-6,
  )


def test_feather_keeps_tiny_weights_that_are_above_the_threshold():
  """Their cubes underflow, and the next float above t is not zero."""
  t = np.float32(1e-20)
  w = jnp.asarray([t, np.nextafter(t, np.float32(1)), 2e-20, -3e-20])
  out = create('feather', sparsity=0.5)(w, jnp.full((1,), t))
  assert (np.asarray(out) != 0).tolist() == [False, True, True, True]


def test_equal_settings_hash_equal_however_they_are_given():
  pairs = tuple(sorted(GIVEN.items()))
  a = methods.create('gmp', budget=GIVEN)
  b = methods.create('gmp', budget=dict(reversed(GIVEN.items())))
  assert a == b and hash(a) == hash(b)
  for given in (pairs, pairs[::-1], list(pairs)):
    assert methods.create('gmp', sparsity=0.9, budget=given) == a
  assert '3 layers' in str(a) and 'stem' not in str(a)
  named = methods.create('gmp', budget='str-resnet50-90.23')
  given = budgets.load_published('str-resnet50-90.23')
  assert named == methods.create('gmp', budget=given)


@pytest.mark.parametrize(
  ('name', 'settings', 'message'),
  [
    ('feather', {'budget': GIVEN}, 'needs gradient_scale with a budget'),
    ('gmp', {}, 'GMP needs sparsity, .* or a budget'),
    ('gmp', {'sparsity': 90}, r'in \[0, 1\), got 90; 90% is 0.9'),
    ('dnw', {'sparsity': 0.5, 'budget': 'er'}, "global, uniform, .*got 'er'"),
    (
      'gmp',
      {'sparsity': 0.5, 'gradient': 'ste'},
      "masked, straight, got 'ste'",
    ),
    ('gmp', {'sparsity': 0.5, 'every_steps': 0}, 'every_steps of 1 or more'),
    ('gmp', {'sparsity': 0.5, 'start_step': 3}, 'start_step=3 and end_step=1'),
    (
      'feather',
      {'sparsity': 0.5, 'gradient_scale': 2.0},
      r'in \[0, 1\], got 2',
    ),
    (
      'st3_sigma',
      {'sparsity': 0.5, 'budget': 'erk'},
      'by a budget or by_shape, but both are set',
    ),
  ],
)
def test_wrong_settings_are_one_clear_sentence(name, settings, message):
  with pytest.raises(ValueError, match=message):
    methods.create(name, **settings)


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'budget': {'stem': 0.5, 'conv': 0.5}}, 'lacks classifier'),
    ({'budget': GIVEN | {'conv9': 0.5}}, 'besides names conv9'),
    ({'budget': GIVEN | {'conv': 1.5}}, 'but has conv 1.5'),
  ],
)
def test_what_does_not_fit_the_model_is_named(settings, message):
  method = methods.create('st3', **settings)
  with pytest.raises(ValueError, match=message):
    method.update(WEIGHTS, {p: () for p in WEIGHTS}, jnp.int32(1))
