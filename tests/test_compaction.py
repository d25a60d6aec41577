"""Dead ranks cut out of a FastGRNN: the same logits from fewer parameters."""

import jax
import numpy as np
import pytest

import str_jax
from str_jax import compaction, flops, methods, models, report

METHOD = methods.create('str', init_value=-1.0, g='exp')  # threshold 0.37
SHAPE = (6, 5, 1)
INPUTS = np.random.default_rng(1).standard_normal((8, *SHAPE), 'f')


def trained(w_gates, u_gates, method=METHOD):
  """A model and its variables with given gates, as training could leave."""
  model = models.create(
    'fastgrnn', num_classes=3, hidden=4, gated=True, method=method
  )
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(model.init, jax.random.key(0), INPUTS)
  variables = jax.tree.map(
    lambda x: rng.normal(0, 0.5, x.shape).astype('f'), shapes
  )
  cell = variables['params']['cell']
  for name, gates in (('W', w_gates), ('U', u_gates)):
    cell[name]['kernel'] = np.array(gates, 'f')
    if method is not None:
      cell[name]['kernel_threshold'] = np.array([-1.0], 'f')
  return model, variables


def size(params):
  return sum(np.size(leaf) for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
  ('w_gates', 'u_gates', 'ranks'),
  [
    ([1, 0.3, -2, 0.1, 0], [0.5, -0.2, 0.3, -0.9], (2, 2)),
    ([1, 2, 3, 4, 5], [1, 1, 1, 1], (5, 4)),  # none died
    ([0.1] * 5, [1, 1, 0, 0], (0, 2)),  # all of W did
    ([1, 0, 0, 0, 0], [0.1] * 4, (1, 0)),
    ([0] * 5, [0] * 4, (0, 0)),
  ],
)
def test_it_computes_the_same_with_less(w_gates, u_gates, ranks):
  model, variables = trained(w_gates, u_gates)
  small, cut = compaction.compact(model, variables)
  assert (small.w_rank, small.u_rank) == ranks
  assert tuple(compaction.ranks(model, variables).values()) == ranks
  np.testing.assert_allclose(
    small.apply(cut, INPUTS), model.apply(variables, INPUTS), rtol=1e-5
  )
  # The variables are those that the smaller model itself would have.
  shapes = jax.eval_shape(small.init, jax.random.key(0), INPUTS)
  assert jax.tree.map(np.shape, cut) == jax.tree.map(np.shape, shapes)
  dense = str_jax.effective_params(METHOD, variables)
  assert size(cut) < size(dense)
  assert small.method is None and not small.gated


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
    assert (small.w_rank, small.u_rank) == (2, 2)
    np.testing.assert_allclose(
      small.apply(cut, INPUTS), model.apply(variables, INPUTS), rtol=1e-5
    )


def test_a_model_without_gates():
  model = models.create('fastgrnn', num_classes=3, hidden=4, w_rank=2)
  with pytest.raises(ValueError, match='make it with gated=True'):
    compaction.compact(model, {})
