"""From a config to the numbers of a run; bad values are named."""

import jax.numpy as jnp
import pytest

from str_jax import methods
from str_jax.training import loop
from str_jax.training import plan as plans

pytestmark = pytest.mark.usefixtures('quick')
DIGITS = 1197  # training images: 19 steps of 64, the last one partial


@pytest.mark.parametrize(
  'method, fields, wanted',
  [
    ('dense', {'batch_size': 0}, 'batch_size must be 1 or more, got 0'),
    ('dense', {'batch_size': -8}, 'batch_size must be 1 or more, got -8'),
    ('dense', {'batch_size': 1200}, 'batch_size .* 1197 training images'),
    ('dense', {'batch_size': 60}, 'batch_size .* multiple of the 8 devices'),
    ('dense', {'eval_batch_size': 0}, 'eval_batch_size must be 1 or more'),
    ('dense', {'num_workers': -1}, 'num_workers must be 0 or more'),
    ('dense', {'num_workers': 10**6}, 'num_workers must be .* below 512'),
    ('dense', {'fsdp': 0}, 'fsdp must be 1 or more, got 0'),
    ('dense', {'model.norm_momentum': 1.0}, 'norm_momentum must .* below 1'),
    ('dense', {'model.w_rank': 0}, 'model.w_rank must be 1 or more, got 0'),
    ('dense', {'model.u_rank': 0}, 'model.u_rank must be 1 or more, got 0'),
    (
      'dense',
      {'schedule.name': 'multistep', 'schedule.boundaries_epochs': (-1.0,)},
      r'boundaries_epochs .* above 0, .*\(-1.0,\)',
    ),
    ('dense', {'seed': -1}, 'seed must be 0 or more'),
    ('dense', {'seed': 2**31}, 'seed must be .* below 2147483648'),
    ('dense', {'label_smoothing': 1.5}, 'label_smoothing .* got 1.5'),
    ('dense', {'label_smoothing': -0.1}, 'label_smoothing .* got -0.1'),
    ('dense', {'total_steps': 0}, 'total_steps or total_epochs'),
    ('dense', {'total_steps': None}, 'total_steps or total_epochs'),
    ('dense', {'total_steps': -5}, 'total_steps must be 0 or more, got -5'),
    ('dense', {'total_epochs': 2.0}, 'total_steps=20 and as total_epochs=2.0'),
    ('dense', {'log_every_steps': 0}, 'log_every_steps must be 1 or more'),
    ('dense', {'eval_every_steps': 0}, 'eval_every_steps .* 1 step or more'),
    (
      'dense',
      {'checkpoint_every_steps': 0},
      'checkpoint_every_steps .* 1 step or more',
    ),
    (
      'dense',
      {'eval_every_steps': None, 'eval_every_epochs': 0.01},
      'eval_every_epochs .* 1 step or more',
    ),
    ('dense', {'dataset': 'dgits'}, 'dgits'),
    ('dense', {'validation': 5000}, 'validation'),
    ('dense', {'augment': 'mirror'}, 'augment'),
    ('dense', {'model.name': 'resnet19'}, "no model 'resnet19'; the models"),
    (
      'dense',
      {'model.name': 'resnet8', 'model.patch': 4},
      'the model resnet8 has no model.patch, model.widths; .* are width.$',
    ),
    ('dense', {'model.dtype': 'float16'}, 'model.dtype must be one of'),
    ('dense', {'model.lowering': 'gpu'}, 'model.lowering must be one of'),
    ('dense', {'model.init': 'fan_on'}, 'fan_on'),
    ('dense', {'model.density': 0.0}, 'density'),
    ('dense', {'method.name': 'st4'}, "no method 'st4'; the methods are"),
    ('dense', {'method.sparsity': 0.9}, 'dense has no method.sparsity: .* st3'),
    (
      'str',
      {'method.start_steps': 3},
      'method.start_steps on the way to a target only',
    ),
    ('str', {'method.g': 'tanh'}, "g to be one of .*'tanh'"),
    ('str', {'method.granularity': 'row'}, 'granularity to be one of'),
    ('str', {'method.slope': 0.0}, 'slope above 0'),
    ('st3', {'method.sparsity': 90.0}, r'sparsity .*got 90.0; 90% is 0.9'),
    ('st3', {'method.sparsity': None}, 'ST3 needs sparsity'),
    ('st3', {'method.end_steps': 13}, 'method.end .* 12 steps, .* got step 13'),
    ('st3', {'method.start_steps': 8}, 'method.start .* step 8 and step 8'),
    ('st3', {'method.start_steps': -1}, 'method.start_steps must be 0 or more'),
    ('st3', {'method.finetune_epochs': 1.0}, 'finetune_steps=6 and as'),
    ('st3', {'method.finetune_steps': -1}, 'finetune_steps must be 0 or'),
    (
      'st3',
      {'optimizer.dense_decay': 0.1},
      'dense_decay tells .* ST3 has none',
    ),
    ('dense', {'optimizer.dense_decay': 0.0}, 'dense_decay tells .* dense has'),
    (
      'str',
      {'optimizer.dense_decay': 0.0, 'method.freeze_steps': 8},
      'dense_decay tells .* Frozen has',
    ),
    (
      'st3',
      {'method.finetune_learning_rate': None},
      'method.finetune_learning_rate is needed',
    ),
    (
      'st3',
      {'method.finetune_learning_rate': -0.1},
      'method.finetune_learning_rate must be 0 or more',
    ),
    (
      'str',
      {'method.init_value': -3200.0, 'optimizer.threshold_decay': 0.0},
      r'init_value=-3200\).*optimizer.threshold_decay',
    ),
    ('dense', {'optimizer.name': 'lion'}, 'optimizer.name must be one of'),
    (
      'dense',
      {'optimizer.name': 'adam', 'optimizer.coupled': False},
      'optimizer.coupled must be True for adam',
    ),
    ('dense', {'optimizer.dense_decay': -1.0}, 'optimizer.dense_decay must'),
    ('dense', {'optimizer.name': 'adamw'}, 'optimizer.coupled must be False'),
    ('dense', {'optimizer.momentum': 1.0}, 'optimizer.momentum .*below 1'),
    ('dense', {'optimizer.clip_norm': 0.0}, 'optimizer.clip_norm .*above 0'),
    ('dense', {'optimizer.weight_decay': -1e-4}, 'optimizer.weight_decay'),
    ('dense', {'optimizer.norm_decay': -1.0}, 'optimizer.norm_decay must'),
    ('dense', {'optimizer.bias_decay': -1.0}, 'optimizer.bias_decay must'),
    ('dense', {'optimizer.bias_decay': 0.1}, 'set for biases, but none'),
    ('str', {'optimizer.threshold_decay': -1.0}, 'optimizer.threshold_decay'),
    ('dense', {'schedule.name': 'linear'}, "schedule .*'linear'"),
    ('dense', {'schedule.hold': 'batch'}, "hold .*'batch'"),
    ('dense', {'schedule.warmup_steps': 21}, 'warmup_steps .* got 21'),
    ('dense', {'schedule.warmup_epochs': -1.0}, 'warmup_epochs .* got -1.0'),
    ('dense', {'schedule.learning_rate': -0.1}, 'schedule.learning_rate must'),
    (
      'dense',
      {'schedule.learning_rate': float('nan')},
      'schedule.learning_rate .* got nan',
    ),
  ],
)
def test_a_bad_value_is_named(method, fields, wanted, make_config, tmp_path):
  config = make_config(method, **fields)
  with pytest.raises((ValueError, FileNotFoundError), match=wanted) as error:
    loop.Run(config, tmp_path / 'run')
  assert '\n' not in str(error.value)
  assert not (tmp_path / 'run').exists()


def test_the_phases_of_fine_tuning(make_config):
  plan = plans.create(make_config('st3'), DIGITS)
  st3, frozen = plan.phases
  assert plan.steps_per_epoch == 19
  assert (st3.start, st3.stop, frozen.start, frozen.stop) == (0, 12, 12, 18)
  assert st3.method.start_step == 2 and st3.method.end_step == 8
  assert isinstance(frozen.method, methods.Frozen)
  assert plan.total_steps == 18
  # The checkpoint of the boundary is the last of ST-3: it is frozen after.
  assert [plan.phase_of(step) for step in (0, 11, 12, 13, 18)] == [
    0,
    0,
    0,
    1,
    1,
  ]
  rates = [float(plan.learning_rate(jnp.int32(t))) for t in (0, 11, 12, 17)]
  assert rates[0] == pytest.approx(0.1)
  assert 0 < rates[1] < 0.01
  assert rates[2:] == pytest.approx([0.05, 0.05])


@pytest.mark.parametrize(
  'method, settled', [('dense', 0), ('str', 18), ('st3', 8)]
)
def test_when_a_checkpoint_may_be_the_best(method, settled, make_config):
  assert plans.create(make_config(method), DIGITS).settled_step == settled


def test_epochs_become_steps_and_defaults_follow(make_config):
  config = make_config(
    'st3',
    total_steps=None,
    total_epochs=10.0,
    eval_every_steps=None,
    checkpoint_every_steps=None,
    **{
      'method.end_steps': None,
      'method.finetune_steps': None,
      'method.finetune_epochs': 0.5,
      'schedule.warmup_epochs': 2.0,
    },
  )
  plan = plans.create(config, DIGITS)
  assert [phase.stop for phase in plan.phases] == [190, 200]
  assert plan.phases[0].method.end_step == 95  # half of it
  assert plan.eval_every == 19
  assert plan.checkpoint_every == 19  # ten of them
  rates = [float(plan.learning_rate(jnp.int32(t))) for t in (0, 37, 38)]
  assert rates == pytest.approx([0.1 / 38, 0.1, 0.1])


def test_two_phases_that_go_on_with_the_schedule(make_config):
  config = make_config(
    'st3',
    **{
      'method.finetune_learning_rate': None,
      'schedule.name': 'multistep',
      'schedule.boundaries_epochs': (0.5, 0.75),
    },
  )
  plan = plans.create(config, DIGITS)
  rates = [float(plan.learning_rate(jnp.int32(t))) for t in (9, 10, 15)]
  assert rates == pytest.approx([0.1, 0.01, 0.001])
