"""One update, against the formulas; what it leaves where it is."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import str_jax
from str_jax import data
from str_jax.training import loop
from str_jax.training import plan as plans
from str_jax.training import stage as stages
from str_jax.training import state as states
from str_jax.training import step as steps

pytestmark = pytest.mark.usefixtures('quick')
DATASET = types.SimpleNamespace(mean=(3.0,), std=(2.0,))


class Scale(nn.Module):
  @nn.compact
  def __call__(self, x):
    scale = self.param('scale', nn.initializers.normal(1.0), x.shape[-1:])
    return x * scale[None]


class Linear(nn.Module):
  """Logits = (x * scale) @ kernel + bias: its gradients are known."""

  @nn.compact
  def __call__(self, images, train=False):
    x = Scale(name='norm')(images.reshape(images.shape[0], -1))
    kernel = nn.initializers.normal(1.0)
    bias = nn.initializers.normal(1.0)
    return nn.Dense(3, kernel_init=kernel, bias_init=bias, name='head')(x)


@pytest.fixture
def batches():
  rng = np.random.default_rng(0)
  return [
    {
      'image': rng.integers(0, 17, (8, 2, 2, 1)).astype(np.uint8),
      'label': rng.integers(0, 3, 8).astype(np.int32),
    }
    for _ in range(3)
  ]


def numpy_gradients(p, batch, smoothing):
  """Loss, hits and gradients of Linear, in float64."""
  x = (batch['image'].reshape(8, 4).astype(float) - 3) / 2
  scaled = x * p['norm', 'scale']
  logits = scaled @ p['head', 'kernel'] + p['head', 'bias']
  log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
  targets = np.eye(3)[batch['label']] * (1 - smoothing) + smoothing / 3
  loss = -(targets * log_p).sum(1).mean()
  d_logits = (np.exp(log_p) - targets) / 8
  gradients = {
    ('head', 'kernel'): scaled.T @ d_logits,
    ('head', 'bias'): d_logits.sum(0),
    ('norm', 'scale'): ((d_logits @ p['head', 'kernel'].T) * x).sum(0),
  }
  return loss, (logits.argmax(1) == batch['label']).mean(), gradients


DECAY = {
  ('head', 'kernel'): 0.1,
  ('norm', 'scale'): 0.02,
  ('head', 'bias'): 0.003,
}


def linear_config(make_config, **fields):
  return make_config(
    **{
      'optimizer.weight_decay': 0.1,
      'optimizer.norm_decay': 0.02,
      'optimizer.bias_decay': 0.003,
      'optimizer.momentum': 0.8,
      'schedule.warmup_steps': 2,
    }
    | fields
  )


def linear_run(config, smoothing=0.0):
  plan = plans.create(config, 1197)
  tx = plans.optimizer(config, plan, plan.phases[0])
  state = states.create(Linear(), tx, (2, 2, 1), seed=0)
  step = steps.make_train_step(
    Linear(), None, tx, DATASET, label_smoothing=smoothing, seed=0
  )
  return state, jax.jit(step), plan


def named(tree):
  return {
    path: np.asarray(leaf, np.float64)
    for path, leaf in str_jax.paths.named_leaves(tree).items()
  }


@pytest.mark.parametrize('nesterov', [False, True])
@pytest.mark.parametrize('clip', [None, 0.5])
@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_three_steps_of_sgd(nesterov, clip, smoothing, batches, make_config):
  """Clipped, then decayed by kind, then momentum, as in PyTorch's SGD."""
  fields = {'optimizer.clip_norm': clip, 'optimizer.nesterov': nesterov}
  state, step, plan = linear_run(
    linear_config(make_config, **fields), smoothing
  )
  p = named(state.variables['params'])
  momentum = {path: np.zeros_like(w) for path, w in p.items()}
  sums = {'loss': 0.0, 'correct': 0.0, 'grad_norm': 0.0, 'steps': 0.0}
  for t, batch in enumerate(batches):
    state = step(state, batch)
    loss, correct, gradients = numpy_gradients(p, batch, smoothing)
    norm = np.sqrt(sum((g**2).sum() for g in gradients.values()))
    assert norm > 0.5  # or there would be nothing to clip
    rate = float(plan.learning_rate(jnp.int32(t)))
    for path, g in gradients.items():
      g = g * min(1, clip / norm) if clip else g
      g = g + DECAY[path] * p[path]
      momentum[path] = 0.8 * momentum[path] + g
      move = g + 0.8 * momentum[path] if nesterov else momentum[path]
      p[path] = p[path] - rate * move
    new = {'loss': loss, 'correct': correct, 'grad_norm': norm, 'steps': 1.0}
    sums = {name: sums[name] + new[name] for name in sums}
    assert int(state.step) == t + 1
    for path, w in named(state.variables['params']).items():
      np.testing.assert_allclose(w, p[path], rtol=1e-4, atol=1e-6)
    for name, value in state.sums.items():
      assert float(value) == pytest.approx(sums[name], rel=1e-5), name


def test_adamw_is_optaxs(batches, make_config, assert_trees_equal):
  fields = {
    'optimizer.name': 'adamw',
    'optimizer.coupled': False,
    'optimizer.norm_decay': 0.1,
    'optimizer.bias_decay': 0.1,
    'optimizer.b2': 0.99,
  }
  state, step, plan = linear_run(linear_config(make_config, **fields))
  theirs = optax.adamw(plan.learning_rate, b2=0.99, weight_decay=0.1)
  params = state.variables['params']
  opt_state = theirs.init(params)
  for batch in batches:
    _, _, gradients = numpy_gradients(named(params), batch, 0.0)
    gradients = jax.tree_util.tree_map_with_path(
      lambda path, p, g=gradients: jnp.asarray(
        g[str_jax.paths.path_names(path)], p.dtype
      ),
      params,
    )
    updates, opt_state = theirs.update(gradients, opt_state, params)
    params = optax.apply_updates(params, updates)
    state = step(state, batch)
  assert_trees_equal(state.variables['params'], params, rtol=2e-5, atol=2e-6)


def test_evaluation_weighs_examples_and_does_not_smooth(batches, make_config):
  state, _, _ = linear_run(linear_config(make_config), smoothing=0.3)
  weight = np.array([1, 1, 1, 0, 1, 0, 0, 1], np.float32)
  sums = steps.make_eval_step(Linear(), DATASET)(
    state.variables, {**batches[0], 'weight': weight}
  )
  p = named(state.variables['params'])
  x = (batches[0]['image'].reshape(8, 4) - 3.0) / 2 * p['norm', 'scale']
  logits = x @ p['head', 'kernel'] + p['head', 'bias']
  label = batches[0]['label']
  loss = np.log(np.exp(logits).sum(1)) - logits[np.arange(8), label]
  assert float(sums['examples']) == 5
  assert float(sums['loss']) == pytest.approx((loss * weight).sum(), rel=1e-5)
  hits = ((logits.argmax(1) == label) * weight).sum()
  assert float(sums['correct']) == hits


def test_the_first_nonfinite_step_is_kept(batches, make_config):
  state, step, _ = linear_run(linear_config(make_config))
  state = step(state, batches[0])
  assert int(state.first_nonfinite) == -1
  bad = jax.tree.map(lambda w: w * jnp.inf, state.variables)
  state = step(step(state.replace(variables=bad), batches[1]), batches[2])
  assert int(state.first_nonfinite) == 2


def test_new_weights_that_overflow_are_seen(batches, make_config):
  """The loss and the gradient of the step are finite."""
  config = linear_config(make_config, **{'schedule.learning_rate': 1e38})
  state, step, _ = linear_run(config)
  state = step(state, jax.tree.map(lambda x: x * 7, batches[0]))
  assert np.isfinite(float(state.sums['loss'] + state.sums['grad_norm']))
  assert int(state.first_nonfinite) == 1


def test_the_frozen_phase_begins_with_its_own_rate(batches, make_config):
  """Zeros stay, without gradient, decay or momentum; momentum is fresh."""
  fields = {'optimizer.weight_decay': 0.1, 'optimizer.norm_decay': 0.02}
  config = make_config('st3', **fields | {'optimizer.clip_norm': None})
  plan = plans.create(config, 1197)
  first, frozen = plan.phases
  state = states.create(
    Linear(), plans.optimizer(config, plan, first), (2, 2, 1), seed=0
  )
  variables = str_jax.add_thresholds(first.method, state.variables)
  variables = str_jax.update_thresholds(first.method, variables, 12)
  tx = plans.optimizer(config, plan, frozen)
  state = state.replace(step=jnp.int32(12), variables=variables)
  state = states.freeze(first.method, state, tx)
  before = named(state.variables['params'])
  zero = before['head', 'kernel'] == 0
  assert 'thresholds' not in state.variables and zero.sum() == 9
  step = steps.make_train_step(
    Linear(), frozen.method, tx, DATASET, label_smoothing=0.0, seed=0
  )
  after = jax.jit(step)(state, batches[0])
  assert int(after.step) == 13
  _, _, gradients = numpy_gradients(before, batches[0], 0.0)
  decay = {path: (0.1, 0.02, 0)[i] for i, path in enumerate(DECAY)}
  for path, w in named(after.variables['params']).items():
    move = gradients[path] + decay[path] * before[path]
    if path == ('head', 'kernel'):
      move[zero] = 0
      assert (w[zero] == 0).all()
    np.testing.assert_allclose(w, before[path] - 0.05 * move, rtol=1e-4)


@pytest.fixture(scope='module')
def started(recorded):
  """From a method: the run's stage, a state of it, and some batches."""

  def start(method, count=3):
    run = loop.Run(recorded(method).config, recorded(method).directory)
    run.checkpoints.close()
    stage = run.stage(run.plan.phases[0])
    stream = data.train_batches(run.dataset, 64, seed=0)
    batches = [run.placement.put(next(stream)) for _ in range(count)]
    return run, stage, stage.init(0), batches

  return start


@pytest.mark.parametrize('method', ['str', 'st3'])
def test_nothing_crosses_to_the_host_within_a_step(method, started):
  _, stage, state, batches = started(method)
  state = stage.train_step(state, batches[0])
  with jax.transfer_guard('disallow'):
    for batch in batches:
      state = stage.train_step(state, batch)
  assert int(state.step) == 4
  assert stage.train_step._cache_size() == 1  # and nothing is compiled anew


def test_the_state_is_donated_and_the_batch_is_not(started):
  _, stage, state, batches = started('str')
  before = jax.tree.leaves((state.variables, state.opt_state))
  stage.train_step(state, batches[0])
  assert all(leaf.is_deleted() for leaf in before)
  assert not batches[0]['image'].is_deleted()


def test_thresholds_are_those_of_the_new_weights(started, assert_trees_equal):
  """Steps 3 and 4: the ramp from step 2 to 8 has begun."""
  run, stage, state, batches = started('st3', 4)
  method = run.plan.phases[0].method
  update = jax.jit(str_jax.update_thresholds, static_argnums=0)
  for step, batch in enumerate(batches, start=1):
    state = stage.train_step(state, batch)
    expected = update(method, state.variables, step)
    assert_trees_equal(state.variables, expected)
  assert all(t.max() > 0 for t in jax.tree.leaves(expected['thresholds']))


def test_one_device_and_eight_give_the_same(started):
  """BatchNorm's statistics, too, are those of the whole batch."""
  run, stage, state, batches = started('dense')
  mesh = jax.make_mesh(
    (1,),
    ('data',),
    axis_types=(jax.sharding.AxisType.Auto,),
    devices=jax.devices()[:1],
  )
  alone = stages.Placement(mesh)
  stage_alone = stages.create(
    run.config, run.plan, run.plan.phases[0], run.dataset, alone
  )
  state_alone = jax.device_put(jax.device_get(state), alone.state)
  for batch in batches:
    image = batch['image']
    assert len(image.sharding.device_set) == 8
    assert image.addressable_shards[0].data.shape[0] == 8
    local = alone.put(jax.device_get(batch))
    state = stage.train_step(state, batch)
    state_alone = stage_alone.train_step(state_alone, local)
    for name in ('loss', 'grad_norm'):
      assert float(state.sums[name]) == pytest.approx(
        float(state_alone.sums[name]), rel=1e-5
      )
  for a, b in zip(
    jax.tree.leaves(state.variables), jax.tree.leaves(state_alone.variables)
  ):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_bfloat16_computes_in_it_and_keeps_float32(make_config, tmp_path):
  run = loop.Run(make_config('str', model__dtype='bfloat16'), tmp_path)
  run.checkpoints.close()
  stage = run.stage(run.plan.phases[0])
  batch = next(data.train_batches(run.dataset, 64, seed=0))
  new = jax.eval_shape(stage.train_step, stage.target, batch)
  for leaf in jax.tree.leaves((new.variables, new.sums)):
    assert leaf.dtype == jnp.float32
  text = str(jax.make_jaxpr(stage.train_step)(stage.target, batch))
  convolutions = [x for x in text.splitlines() if 'conv_general_dilated' in x]
  assert convolutions and all('bf16[' in x for x in convolutions)
