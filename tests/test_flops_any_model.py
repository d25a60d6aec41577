"""Multiply-adds of models that are not Linen's: NNX, Equinox, any function."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import str_jax
from str_jax import flops
from str_jax.methods import Target
from str_jax.paths import matching

STR = str_jax.methods.create('str', target=0.5)


class Net(nnx.Module):
  """Convolution, attention, an embedding, what counts calls and drops."""

  def __init__(self, rngs, method=None):
    self.stem = str_jax.nnx.Conv(1, 8, (3, 3), rngs=rngs, method=method)
    self.norm = nnx.BatchNorm(8, rngs=rngs)
    self.drop = nnx.Dropout(0.5, rngs=rngs)
    self.position = nnx.Embed(16, 8, rngs=rngs)
    self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
    self.head = str_jax.nnx.Linear(8, 10, rngs=rngs, method=method)

  def __call__(self, x, train=True):
    assert not train  # as a trained network is called
    x = self.drop(nnx.relu(self.norm(self.stem(x))))
    x = x.reshape(x.shape[0], 16, 8) + self.position(jnp.arange(16))[None]
    return self.head((x + self.attention(x)).mean(axis=1))


# 4 * 4 positions, 3 * 3 * 1 * 8 weights; 16 positions, 8 * 8 weights.
COUNTS = {
  'stem': 16 * 72,
  **{f'attention/{name}': 16 * 64 for name in ('query', 'key', 'value', 'out')},
  'head': 80,
}


@pytest.fixture
def sparse(request):
  net = Net(nnx.Rngs(0), method=STR if request.param == 'layers' else None)
  return str_jax.nnx.Sparse(net, STR) if request.param == 'wrapped' else net


@pytest.mark.parametrize(
  'sparse', ['dense', 'layers', 'wrapped'], indirect=True
)
def test_nnx(sparse, assert_trees_equal):
  def state():  # but for random keys, which do not compare
    return nnx.to_pure_dict(nnx.state(sparse, nnx.Not(nnx.RngKey)))

  before = jax.tree.map(jnp.copy, state())
  assert flops.count(sparse, (4, 4, 1)) == COUNTS
  assert flops.count_weightless(sparse, (4, 4, 1)) == 2 * 16 * 16 * 8
  # Running means, counts of random numbers: nothing has been computed.
  assert_trees_equal(state(), before)
  report = str_jax.nnx.sparsity_report(sparse, COUNTS)
  assert report.dense_flops == sum(COUNTS.values())
  assert [row.name for row in report.rows] == list(COUNTS)


def test_nnx_as_linen():
  model = nnx.bridge.to_linen(nnx.Conv, 3, 8, (3, 3), strides=2)
  layer = nnx.Conv(3, 8, (3, 3), strides=2, rngs=nnx.Rngs(0))
  expected = {'': 4 * 4 * 9 * 3 * 8}
  assert flops.count(model, (8, 8, 3)) == expected
  assert flops.count(layer, (8, 8, 3)) == expected


def test_nnx_in_a_scan():
  rnn = nnx.RNN(nnx.SimpleCell(4, 8, rngs=nnx.Rngs(0)))
  assert flops.count(rnn, (7, 4)) == {
    'cell/dense_i': 7 * 32,
    'cell/dense_h': 7 * 64,
  }


def test_nnx_counts_what_its_where_picked():
  embed = str_jax.nnx.Sparse(
    nnx.Embed(20, 8, rngs=nnx.Rngs(0)), STR, where='embedding'
  )
  assert flops.count(embed, (5,), dtype=jnp.int32) == {'embedding': 0}


def test_tokens_of_linen():
  model = nn.Sequential([nn.Embed(20, 8), nn.Dense(3)])
  counts = flops.count(model, (5,), dtype=jnp.int32)
  assert counts == {'layers_1': 5 * 24}


class Reader(eqx.Module):
  """Words that attend to an image; the embedding is the classifier, too."""

  stem: eqx.nn.Conv2d
  embedding: eqx.nn.Embedding
  attention: eqx.nn.MultiheadAttention
  mlp: eqx.nn.MLP

  def __init__(self, key):
    self.stem = eqx.nn.Conv2d(1, 8, 3, padding=1, key=key)
    self.embedding = eqx.nn.Embedding(20, 8, key=key)
    self.attention = eqx.nn.MultiheadAttention(2, 8, key=key)
    self.mlp = eqx.nn.MLP(8, 8, 16, 1, key=key)

  def __call__(self, image, words):
    image = jax.nn.relu(self.stem(image)).reshape(8, -1).T
    words = jax.vmap(self.embedding)(words)
    words = jax.vmap(self.mlp)(self.attention(words, image, image))
    return words @ self.embedding.weight.T


IMAGE, WORDS = jnp.ones((1, 4, 4)), jnp.arange(5)
PICKED = matching('**/weight', exclude='mlp/**')  # which counts all the same
EXPECTED = {
  'stem/weight': 16 * 72,
  'embedding/weight': 5 * 160,  # as the classifier; looked up for nothing
  'attention/query_proj/weight': 5 * 64,
  'attention/key_proj/weight': 16 * 64,
  'attention/value_proj/weight': 16 * 64,
  'attention/output_proj/weight': 5 * 64,
  'mlp/layers/0/weight': 5 * 128,
  'mlp/layers/1/weight': 5 * 128,
}


@pytest.fixture(scope='module')
def reader():
  net = Reader(jax.random.key(0))
  arrays, rest = eqx.partition(net, eqx.is_inexact_array)
  return arrays, lambda arrays, *x: eqx.combine(arrays, rest)(*x)


def test_a_function_of_equinox(reader):
  arrays, function = reader
  counts = flops.count_function(function, arrays, IMAGE, WORDS, where=PICKED)
  assert counts == EXPECTED
  shapes = jax.eval_shape(lambda: arrays)
  again = flops.count_function(function, shapes, IMAGE, WORDS, where=PICKED)
  assert again == counts


@pytest.mark.parametrize('name', ['str', 'st3'])
def test_a_target_of_flops_for_equinox(reader, name):
  arrays, function = reader
  uses = flops.uses(EXPECTED, arrays)
  assert uses['attention/key_proj/weight'] == 16
  method = str_jax.methods.create(name, target=Target(flops=0.3, uses=uses))
  variables = str_jax.add_thresholds(method, arrays, PICKED)
  variables = str_jax.update_thresholds(method, variables, 1)
  report = str_jax.report.sparsity_report(method, variables, EXPECTED)
  limit = int(0.3 * sum(EXPECTED.values()))
  largest = max(uses.values())
  assert limit - largest < report.flops <= limit


def test_a_function_of_linen_variables():
  model = nn.Dense(3, use_bias=True)
  variables = model.init(jax.random.key(0), jnp.ones((1, 4)))
  assert flops.count_function(model.apply, variables, jnp.ones((1, 4))) == {
    '': 12
  }
  sparse = str_jax.add_thresholds(STR, variables)

  def function(variables, x):
    params = str_jax.effective_params(STR, variables)
    return model.apply({'params': params}, x)

  assert flops.count_function(function, sparse, jnp.ones((1, 4))) == {'': 12}
  assert flops.uses({'': 24}, variables) == {'': 2}


def test_what_is_refused(reader):
  arrays, function = reader
  with pytest.raises(ValueError, match='got the class Net: pass Net'):
    flops.count(Net, (4, 4, 1))
  with pytest.raises(
    ValueError, match='needs a Flax model, .* a Reader of .*count_function'
  ):
    flops.count(Reader(jax.random.key(0)), (4, 4, 1))
  with pytest.raises(ValueError, match='matched none of these leaves'):
    flops.count_function(function, arrays, IMAGE, WORDS)
  with pytest.raises(ValueError, match=r'attention/dropout/p is a float'):
    flops.count_function(
      function, Reader(jax.random.key(0)), IMAGE, WORDS, where=PICKED
    )
  with pytest.raises(ValueError, match='layers do not: attention/key_proj'):
    flops.count_function(
      lambda net, x: jax.vmap(net.embedding)(x) @ net.embedding.weight.T,
      arrays,
      WORDS,
      where=PICKED,
    )
  with pytest.raises(ValueError, match='class Linear: pass Linear'):
    flops.count(nnx.Linear, (4,))
  with pytest.raises(ValueError, match=r'as \(224, 224, 3\), got 4'):
    flops.count(nn.Dense(3), 4)
  half = flops.count_function(
    lambda w, x: x @ w[:4], jnp.ones((8, 8)), jnp.ones(4), where='**'
  )
  with pytest.raises(ValueError, match='all be used equally often'):
    flops.uses(half, jnp.ones((8, 8)))
  with pytest.raises(ValueError, match='of stem, but the weights hold no such'):
    flops.uses({'stem': 3}, arrays)


def test_a_report_of_the_wrong_counts():
  variables = {'params': {'a': {'kernel': jnp.ones((2, 3))}}}
  report = str_jax.report.sparsity_report
  with pytest.raises(ValueError, match='has none of a: count them'):
    report(None, variables, flops={})
  with pytest.raises(ValueError, match='has some of b, which they lack'):
    report(None, variables, flops={'a': 6, 'b': 6})
