"""Any function by sparse kernels, against the function itself."""

import gc

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sparse_functions import check, lively, normal

import str_jax
from str_jax import inference
from str_jax.inference import functions, native, program
from str_jax.inference.network import DENSE

pytestmark = pytest.mark.usefixtures('kernels', 'untimed')

METHOD = str_jax.methods.create('st3', sparsity=0.8, end_step=1)
MODELS = {
  'vit_micro': ((2, 16, 16, 3), {'depth': 1}, 4),
  'vgg11': ((1, 8, 8, 3), {'stage_sizes': (1, 2), 'widths': (8, 12)}, 2),
  'wrn_34_2': ((1, 9, 9, 3), {'stage_sizes': (1, 1, 1), 'widen': 1}, 4),
}


@pytest.mark.parametrize('name', MODELS)
def test_our_models_with_their_thresholds(name):
  shape, sizes, least = MODELS[name]
  model = str_jax.models.create(name, num_classes=10, method=METHOD, **sizes)
  x = normal(*shape)
  variables = jax.jit(model.init)(jax.random.key(0), x)
  variables = str_jax.update_thresholds(METHOD, variables, step=1)

  def function(variables, x):
    return model.apply(variables, x, train=False)

  fast = check(function, variables, x, least=least)
  report = str_jax.report.sparsity_report(METHOD, variables)
  rows = {row.name: row for row in report.rows}
  for layer in fast.layers:
    row = rows[layer.name]
    assert (layer.weights, layer.nonzero) == (row.weights, row.nonzero)


class Net(nnx.Module):
  def __init__(self, rngs):
    self.conv = nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs)
    self.norm = nnx.BatchNorm(8, rngs=rngs, use_running_average=True)
    self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
    self.drop = nnx.Dropout(0.5, rngs=rngs)
    self.head = nnx.Linear(8, 5, rngs=rngs)

  def __call__(self, x):
    x = nnx.relu(self.norm(self.conv(x))).reshape(x.shape[0], -1, 8)
    return self.head(self.drop((x + self.attention(x)).mean(axis=1)))


def test_nnx():
  sparse = str_jax.nnx.Sparse(Net(nnx.Rngs(0)), METHOD)
  str_jax.nnx.update_thresholds(sparse, 1)
  graphdef, params, rest = nnx.split(str_jax.nnx.freeze(sparse), nnx.Param, ...)
  fast = check(
    lambda params, x: nnx.merge(graphdef, params, rest, copy=True)(x),
    params,
    normal(2, 8, 8, 3),
    least=5,
  )
  assert fast.layers[0].name == 'conv'


class Reader(eqx.Module):
  """Words that attend to an image; the embedding is the classifier, too."""

  stem: eqx.nn.Conv2d
  embedding: eqx.nn.Embedding
  attention: eqx.nn.MultiheadAttention

  def __init__(self, key):
    self.stem = eqx.nn.Conv2d(3, 8, 3, padding=1, key=key)
    self.embedding = eqx.nn.Embedding(20, 8, key=key)
    self.attention = eqx.nn.MultiheadAttention(2, 8, key=key)

  def __call__(self, image, words):
    image = jax.nn.relu(self.stem(image)).reshape(8, -1).T
    words = jax.vmap(self.embedding)(words)
    return self.attention(words, image, image) @ self.embedding.weight.T


def test_equinox():
  net = Reader(jax.random.key(0))
  arrays, rest = eqx.partition(net, eqx.is_inexact_array)
  arrays = lively(arrays)
  fast = check(
    lambda arrays, *x: eqx.combine(arrays, rest)(*x),
    arrays,
    normal(3, 5, 6),
    jnp.arange(7),
    least=6,
  )
  names = [layer.name for layer in fast.layers]
  assert names[0] == 'stem/weight' and names[-1] == 'embedding/weight'


def test_what_is_inside_of_loops_stays_as_it_is():
  cell = nn.RNN(nn.SimpleCell(8))
  x = normal(2, 5, 4)
  params = lively(cell.init(jax.random.key(0), x)['params'])

  def function(params, x):
    return cell.apply({'params': params}, x) @ params['head']

  params['head'] = normal(8, 20, density=0.1)
  fast = check(function, params, x)
  assert [layer.name for layer in fast.layers] == ['head']


def test_what_is_inside_of_calls_is_found():
  class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
      x = jax.nn.elu(nn.remat(nn.Dense)(16, name='a')(x))
      return nn.jit(nn.Dense)(5, name='b')(x)

  x = normal(3, 8)
  params = lively(Net().init(jax.random.key(0), x), density=0.2)
  fast = check(Net().apply, params, x, least=2)
  assert [layer.name for layer in fast.layers] == ['a', 'b']


def test_constants_that_were_spread_are_not_kept():
  w, mask = normal(8, 9, density=0.2), jnp.arange(9)[np.newaxis] < 5

  def function(w, x):
    far = jnp.broadcast_to(mask, (4000, 9))
    return jnp.where(far, jax.nn.elu(x @ w), -1e9).max(axis=1)

  x = normal(4000, 8)
  check(function, w, x)
  _, known = program.trace(function, w, [x])
  assert sorted(array.size for array in known.values())[-2:] == [9, 72]


def test_weights_are_not_held_dense():
  def live():
    gc.collect()
    return sum(array.nbytes for array in jax.live_arrays())

  x, before = normal(4, 256), live()
  w = normal(256, 256, density=0.02)
  fast = inference.build_function(
    lambda w, x: (x @ w.T) @ w, w, x, mode='sparse'
  )
  del w
  assert live() - before < 2 * 256 * 256  # less than half of it
  assert fast(x).shape == x.shape


def test_it_ends_where_the_function_does():
  w, x = jnp.eye(4), normal(3, 4)

  def function(w, x, rate):
    grown = jax.lax.while_loop(
      lambda x: jnp.abs(x).max() < 100, lambda x: 2 * x, x @ w
    )
    return rate * grown

  fast = inference.build_function(function, w, x, 0.5)
  np.testing.assert_allclose(fast(x, 0.5), function(w, x, 0.5))
  np.testing.assert_allclose(fast(x, 2.0), function(w, x, 2.0))


def test_it_is_mapped_and_jitted():
  w, x = normal(8, 9, density=0.2), normal(5, 8)
  fast = inference.build_function(
    lambda w, x: jnp.tanh(x) @ w, w, x[0], mode='sparse'
  )
  expected = jnp.tanh(x) @ w
  np.testing.assert_allclose(jax.vmap(fast)(x), expected, atol=1e-5)
  np.testing.assert_allclose(jax.jit(jax.vmap(fast))(x), expected, atol=1e-5)


def test_shapes_will_do_for_inputs():
  w, x = normal(8, 9, density=0.2), normal(4, 8)
  shapes = jax.eval_shape(lambda: (x, {'add': x}))
  fast = inference.build_function(
    lambda w, x, more: x @ w + more['add'] @ w, w, *shapes
  )
  np.testing.assert_allclose(fast(x, {'add': x}), 2 * x @ w, atol=1e-5)


def test_nothing_to_gain_is_said():
  w, x = normal(8, 9, density=0.2), normal(4, 8)
  wide = lambda w, x: (x.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16)).sum()
  fast = inference.build_function(wide, w, x)
  assert not fast.layers and 'in float32 and not in a loop, has 40% z' in (
    fast.note
  )
  np.testing.assert_allclose(fast(x), jax.jit(wide)(w, x), rtol=0.02)


def test_what_is_dense_stays_as_it_is():
  weights = {'a': normal(8, 9, density=0.9), 'b': normal(9, 3, density=0.2)}
  function = lambda w, x: jnp.tanh(x @ w['a']) @ w['b']
  x = normal(4, 8)
  fast = check(function, weights, x)
  assert [layer.name for layer in fast.layers] == ['b']
  dense = inference.build_function(function, weights, x, mode='dense')
  assert [layer.kernel for layer in dense.layers] == [DENSE]
  np.testing.assert_allclose(dense(x), function(weights, x), atol=1e-6)


@pytest.mark.parametrize('fastest', ['sparse', 'dense'])
def test_the_whole_is_timed_too(fastest, monkeypatch):
  seconds = functions.seconds

  def timed(calls):
    seconds(calls)
    whole = 'dense' in calls
    return {k: float(k != fastest) for k in calls} if whole else seconds(calls)

  monkeypatch.setattr(functions, 'seconds', timed)
  w, x = normal(8, 9, density=0.2), normal(4, 8)
  fast = inference.build_function(lambda w, x: x @ w, w, x)
  assert fast.seconds == {'sparse': float(fastest != 'sparse')} | {
    'dense': float(fastest != 'dense')
  }
  (layer,) = fast.layers
  assert layer.kernel.sparse == (fastest == 'sparse')
  assert ('the whole is faster dense' in fast.note) == (fastest == 'dense')
  np.testing.assert_allclose(fast(x), x @ w, atol=1e-5)


def test_without_a_compiler_there_are_plain_jax_s_products(monkeypatch):
  def missing():
    raise native.Missing('no compiler here')

  monkeypatch.setattr(native, 'register', missing)
  w, x = normal(8, 9, density=0.2), normal(4, 8)
  fast = inference.build_function(lambda w, x: x @ w, w, x, mode='sparse')
  assert fast.note == 'no compiler here' and fast.layers[0].kernel.csr
  with pytest.raises(inference.Missing, match='no compiler here'):
    inference.build_function(lambda w, x: x @ w, w, x, backend='native')


def test_what_is_refused():
  w, x = normal(8, 9, density=0.2), normal(4, 8)
  function = lambda w, x: x @ w
  with pytest.raises(ValueError, match="one of auto, dense, sparse, got 'x'"):
    inference.build_function(function, w, x, mode='x')
  fast = inference.build_function(function, w, x, mode='dense')
  with pytest.raises(
    ValueError, match=r'built for .*\(4, 8\).* got .*\(5, 8\)'
  ):
    fast(normal(5, 8))
  with pytest.raises(ValueError, match='function comes first, .* got a .*Arr'):
    inference.build_function(w, function, x)
  shapes = jax.eval_shape(lambda: {'w': w})
  with pytest.raises(ValueError, match='but w is a ShapeDtypeStruct: build'):
    inference.build_function(lambda w, x: x @ w['w'], shapes, x)
  with pytest.raises(ValueError, match='outside of jit, of trained weights'):
    jax.jit(lambda w: inference.build_function(function, w, x)(x))(w)
  with pytest.raises(ValueError, match='weights should be arrays alone.*float'):
    inference.build_function(lambda w, x: x @ w['w'], {'w': w, 'rate': 0.5}, x)
