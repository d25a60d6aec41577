"""The wrapper of a whole NNX model, and what is done with its thresholds."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx

import str_jax.nnx
from str_jax import methods
from str_jax.nnx import (
  ComputedThreshold,
  LearnedThreshold,
  Sparse,
  Threshold,
  effective_model,
  freeze,
  sparsity_report,
  update_thresholds,
)

STR = methods.create('str', init_value=-2.0)
ST3 = methods.create('st3', sparsity=0.5)
BOTH = methods.create('str', target=0.5)
# Net sows outside nnx.capture, as older models do.
pytestmark = pytest.mark.filterwarnings(
  'ignore:.*nnx.capture:DeprecationWarning'
)
X = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)


class Net(nnx.Module):
  """With state of every kind: running means, random numbers, sown values."""

  def __init__(self):
    rngs = nnx.Rngs(0)
    self.layers = nnx.List([nnx.Linear(5, 5, rngs=rngs) for _ in range(2)])
    self.norm = nnx.BatchNorm(5, rngs=rngs)
    self.dropout = nnx.Dropout(0.5, rngs=rngs)
    self.calls = 0

  def encode(self, x):
    return self.layers[0](x)

  def __call__(self, x):
    self.calls += 1
    x = self.norm(self.encode(x))
    self.sow(nnx.Intermediate, 'seen', x)
    return self.layers[1](self.dropout(x))


def pure(model, *filters):
  return nnx.to_pure_dict(nnx.state(model, *filters))


def paths(model, *filters):
  state = nnx.to_flat_state(nnx.state(model, *filters))
  return ['/'.join(map(str, path)) for path, _ in state]


def test_a_call_changes_what_it_changes_without_the_wrapper(assert_trees_equal):
  net, plain = Net(), Net()
  update_thresholds(model := Sparse(net, ST3), 1)
  effective = effective_model(model)
  for linear, seen in zip(plain.layers, effective.layers):
    linear.kernel[...] = seen.kernel[...]
  raw = pure(net, nnx.Param)
  for _ in range(2):
    np.testing.assert_array_equal(model(X), plain(X))
  rest = nnx.Not(nnx.Any(nnx.Param, nnx.RngKey))
  assert_trees_equal(pure(net, rest), pure(plain, rest))  # seen twice, and all
  assert net.calls == plain.calls == 2
  assert_trees_equal(pure(net, nnx.Param), raw)

  model.eval()
  np.testing.assert_array_equal(model(X), model(X))
  assert_trees_equal(pure(net, nnx.BatchStat), pure(plain, nnx.BatchStat))


def test_captured_values_are_those_of_the_model():
  class Sower(nnx.Module):
    def __init__(self):
      self.linear = nnx.Linear(5, 2, rngs=nnx.Rngs(0))

    def __call__(self, x):
      x = self.linear(x)
      self.sow(nnx.Intermediate, 'seen', x)
      return x

  out, seen = nnx.capture(Sparse(Sower(), STR), nnx.Intermediate)(X)
  np.testing.assert_array_equal(seen['module']['seen'].get_value()[0], out)


def test_other_methods_of_the_model_see_the_effective_weights():
  model = Sparse(Net(), STR)
  view = effective_model(model)
  q = STR(model.module.layers[0].kernel[...], jnp.full((1, 1), -2.0))
  np.testing.assert_array_equal(view.layers[0].kernel[...], q)
  np.testing.assert_array_equal(view.encode(X), X @ q)
  assert view.norm.scale is model.module.norm.scale
  frozen = freeze(model)
  assert frozen.norm.scale is not model.module.norm.scale
  assert isinstance(frozen, Net) and not paths(frozen, Threshold)
  report = sparsity_report(model)
  assert sparsity_report(frozen).nonzero == report.nonzero < report.weights


def test_thresholds_are_told_apart_by_their_types():
  model = Sparse(Net(), BOTH)
  learned = [f'thresholds/layers/{i}/kernel/0' for i in range(2)]
  computed = [f'thresholds/layers/{i}/kernel/1' for i in range(2)]
  assert paths(model, LearnedThreshold) == learned
  assert paths(model, ComputedThreshold) == computed
  assert paths(model, Threshold) == sorted(learned + computed)
  assert {*learned} < {*paths(model, nnx.Param)}
  weights = nnx.All(nnx.Param, nnx.Not(Threshold))
  assert paths(model, weights) == [
    f'module/{path}' for path in paths(Net(), nnx.Param)
  ]


def test_an_optimizer_of_the_kernels_alone_leaves_the_thresholds():
  model = Sparse(Net(), STR)
  model.eval()
  kernels = nnx.PathContains('kernel')
  optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=kernels)
  before = pure(model, nnx.Param)
  loss = lambda model: (model(X) ** 2).sum()
  gradient = nnx.grad(loss, argnums=nnx.DiffState(0, kernels))(model)
  optimizer.update(model, gradient)
  after = pure(model, nnx.Param)
  changed = jax.tree.map(lambda a, b: bool((a != b).any()), before, after)
  assert changed['module']['layers'][0] == {'bias': False, 'kernel': True}
  assert not any(jax.tree.leaves(changed['thresholds']))


@pytest.mark.parametrize('method', [STR, BOTH])
def test_decay_tells_the_kinds_apart_in_either_layout(method):
  rngs = nnx.Rngs(0)
  linear = lambda **kwargs: str_jax.nnx.Linear(3, 2, rngs=rngs, **kwargs)
  by_layers = nnx.List([linear(method=method), linear()])
  by_wrapper = Sparse(
    nnx.List([linear(), linear()]), method, lambda p, w: p == ('0', 'kernel')
  )
  tx = str_jax.optim.decay(kernels=1.0, dense_kernels=2.0, thresholds=3.0)
  for model in (by_layers, by_wrapper):
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    params = nnx.as_pure(nnx.state(model, nnx.Param))
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zeros, nnx.as_pure(optimizer.opt_state), params)
    rates = {
      '/'.join(path): float(jnp.max(u / jnp.where(w == 0, 1, w)))
      for (path, u), w in zip(
        str_jax.paths.named_leaves(updates).items(), jax.tree.leaves(params)
      )
    }
    learned = 3.0 if method is STR else 0.0  # a target's start at 0
    for path, rate in rates.items():
      if 'threshold' in path:
        assert rate == learned, path
      elif path.endswith('kernel'):
        assert rate == (1.0 if '0/' in path else 2.0), path


@pytest.mark.parametrize('method', [ST3, BOTH])
def test_it_is_split_merged_cloned_and_saved(
  method, tmp_path, assert_trees_equal
):
  model = Sparse(Net(), method)
  update = nnx.jit(update_thresholds)
  update(model, 1)
  assert sparsity_report(model).nonzero == 25
  clone = nnx.clone(model)
  merged = nnx.merge(*nnx.split(model))
  np.testing.assert_array_equal(
    effective_model(merged).encode(X), effective_model(model).encode(X)
  )
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / 'model', nnx.state(model))
    checkpointer.wait_until_finished()
    fresh = nnx.eval_shape(lambda: Sparse(Net(), method))
    restored = checkpointer.restore(tmp_path / 'model', nnx.state(fresh))
  nnx.update(fresh, restored)
  assert_trees_equal(
    pure(fresh, nnx.Not(nnx.RngKey)), pure(model, nnx.Not(nnx.RngKey))
  )
  model.module.layers[0].kernel[...] *= 2
  update(model, 1)
  assert not any(
    (a == b).any()
    for a, b in zip(
      jax.tree.leaves(pure(model, ComputedThreshold)),
      jax.tree.leaves(pure(clone, ComputedThreshold)),
    )
  )


def attention():
  return nnx.MultiHeadAttention(
    2, 6, decode=False, normalize_qk=True, rngs=nnx.Rngs(0)
  )


MODELS = {
  'attention': (attention, 4, lambda model: model(jnp.ones((2, 3, 6)))),
  'lstm': (
    lambda: nnx.LSTMCell(3, 4, rngs=nnx.Rngs(0)),
    8,
    lambda cell: cell(2 * (jnp.ones((2, 4)),), jnp.ones((2, 3)))[1],
  ),
  'lora': (
    lambda: nnx.LoRALinear(6, 4, lora_rank=2, rngs=nnx.Rngs(0)),
    1,
    lambda model: model(jnp.ones((2, 6))),
  ),
  'embedding': (lambda: nnx.Embed(7, 3, rngs=nnx.Rngs(0)), 1, None),
}


@pytest.mark.parametrize('name', MODELS)
def test_whatever_holds_a_kernel_is_reached(name):
  build, count, call = MODELS[name]
  where = lambda path, w: path[-1] in ('kernel', 'embedding')
  model = Sparse(build(), ST3, where)
  assert len(model.thresholds) == count
  update_thresholds(model, 1)
  dense = build()
  nnx.update(dense, nnx.state(effective_model(model), nnx.Param))
  leaves = str_jax.paths.named_leaves(pure(dense))
  for path in model.thresholds:
    assert (leaves[tuple(path.split('/'))] == 0).any()
  rows = [r for r in sparsity_report(model).rows if r.threshold is not None]
  assert len(rows) == count and all(row.sparsity > 0 for row in rows)
  call = call or (lambda model: model(jnp.arange(7)))
  np.testing.assert_allclose(call(model), call(dense), rtol=1e-6)


def test_a_shared_layer_has_one_threshold():
  layer = str_jax.nnx.Linear(4, 4, rngs=nnx.Rngs(0))
  model = Sparse(nnx.Sequential(layer, layer), STR)
  assert list(model.thresholds) == ['layers/0/kernel']
  q = effective_model(model)
  assert q.layers[0].kernel is q.layers[1].kernel
  tied = nnx.Sequential(
    *[str_jax.nnx.Linear(4, 4, rngs=nnx.Rngs(0), method=STR)] * 2
  )
  np.testing.assert_allclose(model(X[:, :4]), tied(X[:, :4]), rtol=1e-6)
  assert sparsity_report(tied).to_dicts() == sparsity_report(model).to_dicts()


def test_a_part_of_a_model_may_be_wrapped():
  class Two(nnx.Module):
    def __init__(self):
      self.body = Sparse(Net(), ST3)
      self.head = nnx.Linear(5, 2, rngs=nnx.Rngs(0))

  update_thresholds(model := Two(), 1)
  rows = {row.name: row for row in sparsity_report(model).rows}
  assert set(rows) == {'body/layers/0', 'body/layers/1', 'head'}
  assert rows['head'].sparsity == 0 < rows['body/layers/0'].sparsity
  assert isinstance(effective_model(model).body, Net)


def test_errors_say_what_is_wanted():
  rngs = nnx.Rngs(0)
  dense = nnx.Linear(2, 3, rngs=rngs)
  sparse = lambda method: str_jax.nnx.Linear(2, 3, rngs=rngs, method=method)
  Params = type('Params', (nnx.Module,), {})
  (odd := Params()).params = dense
  for error, call in {
    'matched none of these leaves: bias, kernel': lambda: Sparse(
      dense, STR, lambda path, w: False
    ),
    r"pattern 'dense/\*' should": lambda: Sparse(
      dense, STR, str_jax.paths.matching('dense/*')
    ),
    'an nnx.Module, but got a Dense: for Linen': lambda: Sparse(
      flax.linen.Dense(2), STR
    ),
    'an nnx.Module, but got a State: for Linen': lambda: update_thresholds(
      nnx.state(sparse(ST3)), 1
    ),
    'pass what str_jax.nnx.Sparse gave, not the model inside': lambda: (
      update_thresholds(Sparse(nnx.Linear(2, 3, rngs=rngs), ST3).module, 1)
    ),
    "gives it, or None, but it is 'str'": lambda: Sparse(dense, 'str'),
    "or None, but it is 'st3'": lambda: sparse('st3'),
    'but it has thresholds already': lambda: Sparse(sparse(STR), STR),
    'but layers/0 has thresholds': lambda: Sparse(
      nnx.Sequential(Sparse(dense, ST3)), STR
    ),
    'is called params: call': lambda: Sparse(odd, STR),
    r'one method, but .* ST3\(sparsity=0.5\) and STR\(init': lambda: (
      update_thresholds(nnx.List([sparse(STR), sparse(ST3)]), 1)
    ),
  }.items():
    with pytest.raises(ValueError, match=error):
      call()


def test_layers_that_vmap_stacked_are_wrapped_from_outside():
  @nnx.split_rngs(splits=3)
  @nnx.vmap(in_axes=(0, None), out_axes=0)
  def stack(rngs, method):
    return str_jax.nnx.Linear(2, 2, rngs=rngs, method=method)

  with pytest.raises(ValueError, match='wrap the model in str_jax.nnx.Sparse'):
    update_thresholds(stack(nnx.Rngs(0), ST3), 1)

  model = Sparse(stack(nnx.Rngs(0), None), ST3)
  assert model.thresholds['kernel'].shape == (1, 1, 1)
  update_thresholds(model, 1)
  assert sparsity_report(model).sparsity == 0.5
