import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import METHODS, OPTIMIZED
from flax import linen as nn
from flax import nnx
from flax.core import freeze as frozen_dict

import str_jax
from str_jax import layout
from str_jax.paths import named_leaves

RNGS = nnx.Rngs(0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Plain:
  """A pytree of weights of no framework."""

  kernel: jax.Array
  inner: dict


def linen_variables():
  model = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(4)])
  return model.init(jax.random.key(0), jnp.ones((1, 6)))


def nnx_state():
  class Net(nnx.Module):
    def __init__(self, rngs):
      self.first = nnx.Linear(6, 8, rngs=rngs)
      self.second = nnx.Conv(8, 4, (3, 3), rngs=rngs)

  return nnx.state(Net(nnx.Rngs(0)))


def plain():
  key = jax.random.key(0)
  return Plain(
    kernel=jax.random.normal(key, (6, 8)),
    inner={
      'kernel': jax.random.normal(jax.random.key(1), (8, 4)),
      'bias': jnp.ones(4),
    },
  )


def flax_params():
  return linen_variables()['params']


TREES = {
  'linen': linen_variables,
  'linen_frozen_dict': lambda: frozen_dict(linen_variables()),
  'nnx_state': nnx_state,
  'plain': plain,
  'nested_dict': flax_params,
}


@pytest.mark.parametrize('name', METHODS)
@pytest.mark.parametrize('kind', TREES)
def test_add_update_effective_freeze_in_every_layout(
  kind, name, assert_trees_equal
):
  method, dense = METHODS[name], TREES[kind]()
  is_linen = kind.startswith('linen')
  weights = dense['params'] if is_linen else dense
  variables = str_jax.add_thresholds(method, dense)
  update = jax.jit(lambda v, step: str_jax.update_thresholds(method, v, step))
  new = update(variables, 4)
  assert jax.tree.structure(new) == jax.tree.structure(
    jax.tree.map(jnp.asarray, variables)
  )
  # Nothing but thresholds changed: raw weights are the optimizer's alone.
  assert_trees_equal(new['params'], variables['params'])

  effective = jax.jit(lambda v: str_jax.effective_params(method, v))(new)
  raw = named_leaves(weights)
  out = named_leaves(effective)
  assert set(raw) == set(out)
  zeros = total = 0
  for path, w in raw.items():
    if path[-1] != 'kernel':
      np.testing.assert_array_equal(out[path], w)
      continue
    entry = layout.sparse_weights(method, new)[path]
    np.testing.assert_array_equal(out[path], jax.jit(method)(w, *entry.leaves))
    zeros, total = zeros + int((out[path] == 0).sum()), total + w.size
  if name in ('st3', 'st3_hard', 'st3_sigma'):
    assert zeros == int((total - 1) * 0.8) + 1

  frozen = jax.jit(lambda v: str_jax.freeze(method, v))(new)
  if is_linen:
    assert set(frozen) == {'params'}
    frozen = frozen['params']
  for path, w in named_leaves(frozen).items():
    np.testing.assert_array_equal(w, out[path])
    assert w.dtype == out[path].dtype


def test_generic_layout_keeps_the_type_of_the_tree():
  method = METHODS['st3']
  variables = str_jax.add_thresholds(method, plain())
  assert set(variables['thresholds']) == {'kernel', 'inner/kernel'}
  assert isinstance(str_jax.effective_params(method, variables), Plain)
  state = str_jax.effective_params(
    method, str_jax.add_thresholds(method, nnx_state())
  )
  assert isinstance(state, nnx.State)


def test_learned_thresholds_of_a_plain_pytree_get_gradients():
  method = METHODS['str']
  variables = str_jax.add_thresholds(method, plain())

  def loss(variables):
    p = str_jax.effective_params(method, variables)
    return (jnp.ones((2, 6)) @ p.kernel @ p.inner['kernel']).sum()

  gradient = jax.grad(loss)(variables)
  assert all(g != 0 for g in gradient['thresholds'].values())


def test_other_collections_stay():
  variables = {**linen_variables(), 'batch_stats': {'mean': jnp.ones(3)}}
  out = str_jax.add_thresholds(METHODS['st3'], variables)
  assert set(out) == {'params', 'batch_stats', 'thresholds'}
  assert set(str_jax.freeze(METHODS['st3'], out)) == {'params', 'batch_stats'}


def test_where_selects_by_path():
  variables = str_jax.add_thresholds(
    METHODS['str'],
    linen_variables(),
    where=lambda path, w: path == ('layers_2', 'kernel'),
  )
  assert list(layout.sparse_weights(METHODS['str'], variables)) == [
    ('layers_2', 'kernel')
  ]


def test_dense_changes_nothing(assert_trees_equal):
  variables = linen_variables()
  assert str_jax.add_thresholds(None, variables) is variables
  assert str_jax.update_thresholds(None, variables, 1) is variables
  assert_trees_equal(
    str_jax.effective_params(None, variables), variables['params']
  )


def test_errors_say_what_is_wanted():
  method = METHODS['str']
  with pytest.raises(ValueError, match='matched none of these leaves: .*bias'):
    str_jax.add_thresholds(method, linen_variables(), where=lambda p, w: False)
  added = str_jax.add_thresholds(method, linen_variables())
  with pytest.raises(ValueError, match='have some already'):
    str_jax.add_thresholds(method, added)
  with pytest.raises(ValueError, match='STR needs its thresholds'):
    str_jax.effective_params(method, linen_variables())


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (
      lambda m, v: str_jax.update_thresholds(m, v, jnp.array([3])),
      r'step should be one number, but is an array of shape \(1,\)',
    ),
    (
      lambda m, v: str_jax.effective_params(m, v['params']),
      "with 'params', .* got a dict of layers_0, layers_2",
    ),
    (
      lambda m, v: str_jax.update_thresholds(m, nnx.Linear(2, 3, rngs=RNGS), 1),
      'got a Linear: .* of Flax NNX to the functions of str_jax.nnx',
    ),
    (
      lambda m, v: str_jax.report.sparsity_report(None, v['params']),
      r"dense weights as \{'params': weights\}",
    ),
    (
      lambda m, v: str_jax.effective_params(METHODS['str_target'], v),
      'STR has 2 thresholds a weight, but these variables 1',
    ),
  ],
)
def test_what_is_passed_is_looked_at(call, message):
  method = METHODS['st3']
  with pytest.raises(ValueError, match=message):
    call(method, str_jax.add_thresholds(method, linen_variables()))


def test_freeze_gives_plain_zeros():
  """Negative weights too: files pack one pattern of bits better than two."""
  method = METHODS['str']
  variables = str_jax.add_thresholds(method, linen_variables())
  for w in jax.tree.leaves(str_jax.freeze(method, variables)):
    w = np.asarray(w)
    assert not np.signbit(w[w == 0]).any()


def test_an_update_outside_of_jit_is_traced_once(monkeypatch):
  method = str_jax.methods.create('st3', sparsity=0.7, end_step=9)
  variables = str_jax.add_thresholds(method, linen_variables())
  variables = str_jax.update_thresholds(method, variables, 1)
  monkeypatch.setattr(type(method), 'update', None)  # not called any more
  for step in (2, jnp.int32(3), np.int32(4)):
    variables = str_jax.update_thresholds(method, variables, step)


def test_settings_may_be_arrays():
  """Traced ones too, which no hash can be made of."""

  def threshold(value):
    method = str_jax.methods.create('str', init_value=value)
    variables = str_jax.add_thresholds(method, linen_variables())
    new = str_jax.update_thresholds(method, variables, 1)
    return new['params']['layers_0']['kernel_threshold'][0, 0]

  values = jnp.array([-5.0, -6.0])
  np.testing.assert_array_equal(jax.vmap(threshold)(values), values)
  method = str_jax.methods.create('st3', sparsity=np.array(0.5), end_step=1)
  variables = str_jax.add_thresholds(method, linen_variables())
  variables = str_jax.update_thresholds(method, variables, 1)
  found = str_jax.report.sparsity_report(method, variables)
  assert found.sparsity == 0.5


def test_without_thresholds_nothing_is_dense_in_silence():
  variables = {'params': {'net': {'w': jnp.ones((2, 3))}}}
  for name in ('str', 'frozen'):
    with pytest.raises(ValueError, match='there are none: make them'):
      str_jax.effective_params(str_jax.methods.create(name), variables)


def test_sharded_update_gathers_nothing():
  mesh = jax.make_mesh(
    (8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,)
  )
  sharding = jax.sharding.NamedSharding(mesh, jax.P(None, 'data'))
  method = METHODS['st3_sigma']
  dense = {'params': {'kernel': jax.random.normal(jax.random.key(0), (40, 64))}}
  variables = str_jax.add_thresholds(method, dense)
  expected = str_jax.update_thresholds(method, variables, 4)
  sharded = {
    **variables,
    'params': jax.device_put(variables['params'], sharding),
  }
  update = jax.jit(
    lambda v: str_jax.update_thresholds(method, v, 4)['thresholds'],
    compiler_options=OPTIMIZED,
  )
  np.testing.assert_array_equal(
    update(sharded)['kernel_threshold'],
    expected['thresholds']['kernel_threshold'],
  )
  text = update.lower(sharded).compile().as_text()
  assert 'all-gather' not in text and ' sort(' not in text
