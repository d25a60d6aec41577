"""One update, against the formulas."""

import dataclasses
import types

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import METHODS
from flax import linen as nn

import str_jax
from str_jax import models
from str_jax.training import placement as placements
from str_jax.training import plan as plans
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


@pytest.mark.parametrize('fsdp', [1, 4])
@pytest.mark.parametrize('name', ['dense', *METHODS])
def test_every_methods_step_is_lowered_for_accelerators(name, fsdp):
  """On several devices, their weights split or not: seen on a CPU."""
  method = METHODS.get(name)
  model = models.create('convnet', num_classes=8, method=method, widths=(4, 8))
  tx = optax.sgd(0.1, momentum=0.9)
  placement = placements.create(fsdp)

  def init(seed):
    state = states.create(model, tx, (8, 8, 1), seed)
    variables = str_jax.update_thresholds(method, state.variables, 0)
    return dataclasses.replace(state, variables=variables)

  abstract = jax.eval_shape(init, 0)
  here = placement.shardings(abstract)
  step = jax.jit(
    steps.make_train_step(
      model,
      method,
      tx,
      DATASET,
      label_smoothing=0.1,
      seed=0,
      whole=placement.whole,
    ),
    in_shardings=(here, placement.batch),
    out_shardings=here,
  )
  batch = {
    'image': jax.ShapeDtypeStruct((16, 8, 8, 1), jnp.uint8),
    'label': jax.ShapeDtypeStruct((16,), jnp.int32),
  }
  exported = jax.export.export(step, platforms=['cuda', 'tpu'])(abstract, batch)
  assert exported.platforms == ('cuda', 'tpu') and exported.nr_devices == 8
  assert 'sort' not in exported.mlir_module()
