"""Frozen within the schedule, and the schedule rewound after it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

import str_jax
from str_jax import methods, optim
from str_jax.training import checkpoint, loop, records
from str_jax.training import plan as plans
from str_jax.training import state as states

pytestmark = pytest.mark.usefixtures('quick')
DIGITS = 1197


def lines_of(directory):
  lines = records.read_lines(directory / 'metrics.jsonl')
  return {r['step']: r for r in lines if r['kind'] == 'train'}


def zeros(method, variables):
  params = str_jax.effective_params(
    method, jax.tree.map(jnp.asarray, variables)
  )
  return {
    path: np.asarray(w) == 0
    for path, w in traverse_util.flatten_dict(params).items()
    if path[-1] == 'kernel'
  }


@pytest.mark.parametrize('method', ['str', 'st3'])
def test_from_the_freeze_on_the_zeros_stay(
  method, recorded, make_config, tmp_path
):
  """With the schedule's learning rate, to its end and beyond."""
  config = make_config(method, method__freeze_steps=9, checkpoint_keep_steps=9)
  loop.train(config, tmp_path)
  plan = plans.create(config, DIGITS)
  frozen, free = lines_of(tmp_path), lines_of(recorded(method).directory)
  assert frozen.keys() == free.keys() and 9 in frozen
  for step, line in frozen.items():
    assert line['learning_rate'] == free[step]['learning_rate']
    if step <= 9:
      assert line == free[step]
    else:
      assert line['layer_sparsity'] == frozen[9]['layer_sparsity']
      assert set(line['layer_threshold'].values()) == {0.0}
  assert frozen[9]['sparsity'] > 0
  if method == 'str':  # would go on moving
    assert free[20]['sparsity'] != free[9]['sparsity']
  at_9, last = (checkpoint.read_variables(tmp_path, step) for step in (9, None))
  before = zeros(plan.phases[0].method, at_9)
  for path, mask in zeros(None, last).items():
    np.testing.assert_array_equal(mask, before[path])
    old, new = (
      traverse_util.flatten_dict(v['params'])[path] for v in (at_9, last)
    )
    assert (old != new)[~mask].all()


def test_the_phases_of_a_freeze(make_config):
  config = make_config('st3', method__freeze_steps=9)
  plan = plans.create(config, DIGITS)
  first, second = plan.phases
  assert (first.start, first.stop, second.start, second.stop) == (0, 9, 9, 18)
  assert isinstance(second.method, methods.Frozen)
  # STR's sparsity, once frozen, is the last: a checkpoint may be the best.
  config = make_config('str', method__freeze_steps=9)
  assert plans.create(config, DIGITS).settled_step == 9


REWIND = {
  'method.finetune_steps': None,
  'method.finetune_learning_rate': None,
  'log_every_steps': 1,
  'eval_every_steps': 20,
}


@pytest.mark.parametrize('rewind', [0, 4, 11])
@pytest.mark.parametrize('hold', ['step', 'epoch'])
def test_the_schedule_is_replayed(rewind, hold, make_config):
  fields = {'batch_size': 256, 'schedule.hold': hold, **REWIND}
  config = make_config('st3', **fields, method__rewind_steps=rewind)
  plan = plans.create(config, DIGITS)
  assert plan.steps_per_epoch == 5
  assert [p.stop for p in plan.phases] == [12, 24 - rewind]
  rates = [float(plan.learning_rate(jnp.int32(t))) for t in range(24 - rewind)]
  assert rates[12:] == rates[rewind:12]
  config = make_config('st3', **fields)
  main = plans.create(config, DIGITS).learning_rate
  assert rates[:12] == [float(main(jnp.int32(t))) for t in range(12)]


def test_a_rewound_run(make_config, tmp_path):
  config = make_config('st3', **REWIND, method__rewind_steps=4)
  summary = loop.train(config, tmp_path)
  assert summary['steps'] == 20
  lines = lines_of(tmp_path)
  for step in range(13, 21):
    assert lines[step]['learning_rate'] == lines[step - 8]['learning_rate']
    assert lines[step]['sparsity'] == lines[12]['sparsity']


@pytest.mark.parametrize(
  'method, fields, wanted',
  [
    ('dense', {'method.freeze_steps': 5}, 'freeze is for a sparse method'),
    ('str', {'method.freeze_steps': 0}, 'between step 1, .* got step 0'),
    ('str', {'method.freeze_steps': 20}, 'and step 19, .* got step 20'),
    ('str', {'method.freeze_epochs': 2.0}, 'and step 19, .* got step 38'),
    ('st3', {'method.freeze_steps': 7}, 'between step 8, .* got step 7'),
    (
      'str',
      {'method.freeze_steps': 5, 'method.freeze_epochs': 0.5},
      'freeze is set twice',
    ),
    ('st3', {'method.rewind_steps': 0}, 'rewind sets both length and'),
    (
      'str',
      {'method.rewind_steps': 0, 'method.finetune_learning_rate': 0.1},
      'rewind sets both length and',
    ),
    ('str', {'method.rewind_steps': 20}, 'of 20 steps, got step 20'),
    ('str', {'method.rewind_steps': -1}, 'rewind_steps must be 0 or more'),
    ('str', {'checkpoint_keep_steps': 20}, 'checkpoint_keep.* got step 20'),
  ],
)
def test_a_bad_value_is_named(method, fields, wanted, make_config, tmp_path):
  config = make_config(method, **fields)
  with pytest.raises(ValueError, match=wanted) as error:
    loop.Run(config, tmp_path / 'run')
  assert '\n' not in str(error.value)
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  'core',
  [
    lambda rate: optax.sgd(rate, momentum=0.9),
    lambda rate: optax.sgd(rate),
    lambda rate: optax.adam(rate),
  ],
  ids=['momentum', 'sgd', 'adam'],
)
def test_a_freeze_keeps_the_momenta(core):
  method = methods.STR(init_value=-1.0)
  params = {'fc': {'kernel': jnp.array([[2.0, -0.1]]), 'bias': jnp.ones(2)}}
  variables = str_jax.add_thresholds(method, {'params': params})
  rate = lambda count: 0.1 / (count + 1)
  before = optax.chain(optim.decay(kernels=0.1), core(rate))
  after = optax.chain(
    optim.keep_zeros(), optim.decay(kernels=0.1), core(rate), optim.keep_zeros()
  )
  state = states.from_variables(variables, before, step=0)
  gradients = jax.tree.map(jnp.ones_like, variables['params'])
  for _ in range(3):
    _, opt_state = before.update(
      gradients, state.opt_state, state.variables['params']
    )
    state = state.replace(step=state.step + 1, opt_state=opt_state)
  frozen = states.freeze(method, state, after)
  # Nothing but the threshold's own momentum is left behind.
  old, new = (
    [x for x in jax.tree.leaves(s.opt_state) if x.shape != (1, 1)]
    for s in (state, frozen)
  )
  assert [x.tolist() for x in new] == [x.tolist() for x in old]
  assert jax.tree.structure(frozen.opt_state) == jax.tree.structure(
    after.init(frozen.variables['params'])
  )
  # The next update of the weights left is the one without a freeze.
  frozen_params = frozen.variables['params']
  updates, _ = after.update(
    jax.tree.map(jnp.ones_like, frozen_params), frozen.opt_state, frozen_params
  )
  going_on = {'fc': {**variables['params']['fc'], **frozen_params['fc']}}
  expected, _ = before.update(gradients, state.opt_state, going_on)
  expected = expected['fc']['kernel']
  assert expected[0, 1] != 0 and updates['fc']['kernel'][0, 1] == 0
  assert updates['fc']['kernel'][0, 0] == expected[0, 0] < 0
