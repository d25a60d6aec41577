"""Dead ranks cut out of a FastGRNN: the same logits from fewer parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from str_jax import compaction, flops, methods, models, report

METHOD = methods.create('str', init_value=-1.0, g='exp')  # threshold 0.37
SHAPE = (6, 5, 1)
INPUTS = np.random.default_rng(1).standard_normal((8, *SHAPE), 'f')
# The ranks that two factors are left of; a higher one gives the full matrix.
FACTORED_W = {0: 0, 1: 1, 2: 2}
FACTORED_U = {0: 0, 1: 1}


def trained(w_gates, u_gates, method=METHOD):
  """A model and its variables with given gates, as training could leave."""
  model = models.create(
    'fastgrnn', num_classes=3, hidden=4, gated=True, method=method
  )
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(model.init, jax.random.key(0), INPUTS)
  variables = jax.tree.map(
    lambda x: jnp.asarray(rng.normal(0, 0.5, x.shape), 'f'), shapes
  )
  cell = variables['params']['cell']
  for name, gates in (('W', w_gates), ('U', u_gates)):
    cell[name]['kernel'] = np.array(gates, 'f')
    if method == METHOD:
      cell[name]['kernel_threshold'] = np.array([-1.0], 'f')
  return model, variables


def size(params):
  return sum(np.size(leaf) for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
  ('w_gates', 'u_gates', 'ranks'),
  [
    # Factors of W have 9 numbers a rank where the matrix has 20, of U 8 and 16.
    ([1, 0.3, -2, 0.1, 0], [0.5, -0.2, 0.3, -0.1], (2, 1)),
    ([1, 0.3, -2, 3, 0], [0.5, -0.2, 0.7, -0.9], (3, 3)),  # too many to pay
    ([1, 2, 3, 4, 5], [1, 1, 1, 1], (5, 4)),  # none died
    ([0.1] * 5, [1, 1, 0, 0], (0, 2)),  # all of W did
    ([1, 0, 0, 0, 0], [0.1] * 4, (1, 0)),
    ([0] * 5, [0] * 4, (0, 0)),
  ],
)
def test_it_computes_the_same_with_less(w_gates, u_gates, ranks):
  model, variables = trained(w_gates, u_gates)
  small, cut = compaction.compact(model, variables)
  expected = (FACTORED_W.get(ranks[0]), FACTORED_U.get(ranks[1]))
  assert (small.w_rank, small.u_rank) == expected
  assert tuple(compaction.ranks(model, variables).values()) == ranks
  np.testing.assert_allclose(
    small.apply(cut, INPUTS), model.apply(variables, INPUTS), rtol=1e-5
  )
  # The variables are those that the smaller model itself would have.
  shapes = jax.eval_shape(small.init, jax.random.key(0), INPUTS)
  assert jax.tree.map(np.shape, cut) == jax.tree.map(np.shape, shapes)
  plain = model.clone(method=None, gated=False)  # of full matrices
  full = size(jax.eval_shape(plain.init, jax.random.key(0), INPUTS))
  assert size(cut) < full or expected == (None, None) and size(cut) == full
  assert small.method is None and not small.gated
  assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(cut))


def test_its_flops_are_those_that_the_report_gives_the_ranks():
  model, variables = trained([1, 0.3, -2, 0.1, 0], [0.5, -0.2, 0.3, -0.9])
  small, cut = compaction.compact(model, variables)
  large = report.sparsity_report(
    METHOD, variables, flops=flops.count(model, SHAPE)
  )
  dense = report.sparsity_report(None, cut, flops=flops.count(small, SHAPE))
  assert dense.flops == large.flops < large.dense_flops


def test_any_method_will_do():
  for method in (None, methods.create('frozen')):
    model, variables = trained([1, 0, -2, 0, 0], [0, 1, 0, 1], method)
    small, cut = compaction.compact(model, variables)
    assert (small.w_rank, small.u_rank) == (2, None)
    np.testing.assert_allclose(
      small.apply(cut, INPUTS), model.apply(variables, INPUTS), rtol=1e-5
    )


def test_a_model_without_gates():
  model = models.create('fastgrnn', num_classes=3, hidden=4, w_rank=2)
  with pytest.raises(ValueError, match='make it with gated=True'):
    compaction.compact(model, {})


@pytest.mark.parametrize('method', ['str', 'st3'])
def test_thresholds_without_their_method(method):
  method = methods.create(method, **{'st3': {'sparsity': 0.5}}.get(method, {}))
  model = models.create('fastgrnn', num_classes=3, gated=True, method=method)
  variables = model.init(jax.random.key(0), INPUTS)
  for function in (compaction.ranks, compaction.compact):
    with pytest.raises(ValueError, match='no method.*the one they belong to'):
      function(model.clone(method=None), variables)


def test_only_a_fastgrnn_has_ranks():
  model = models.create('convnet', num_classes=3)
  with pytest.raises(ValueError, match='FastGRNN alone .* got a ConvNet'):
    compaction.ranks(model, {})


def test_it_is_said_in_a_sentence():
  model, variables = trained([1, 0.3, -2, 0.1, 0], [0.5, -0.2, 0.3, -0.1])
  said = compaction.describe(model, variables)
  small = compaction.compact(model, variables)[1]
  assert 'W has rank 2 of 5, U has rank 1 of 4' in said
  assert f'{size(small["params"])} of {size(variables["params"]) - 2} ' in said
  assert compaction.describe(models.create('convnet', num_classes=2), {}) == ''
