"""The method that CONTRIBUTING.md shows is one of ours.

That the blocks of README.md and CONTRIBUTING.md run, and what they give, is
tested with those of the other documents, in test_docs_blocks.py.
"""

import documents
import jax
import jax.numpy as jnp
from flax import linen

import str_jax


def test_the_method_in_contributing_keeps_the_laws(assert_trees_equal):
  namespace = {'__name__': 'contributing'}
  (block,) = (
    b for b in documents.blocks('CONTRIBUTING.md') if b.language == 'python'
  )
  exec(documents.compiled(block), namespace)
  method, x = namespace['Fixed'](), jnp.eye(3)
  sparse, dense = str_jax.nn.Dense(4, method=method), linen.Dense(4)
  variables = sparse.init(jax.random.key(0), x)
  added = str_jax.add_thresholds(method, dense.init(jax.random.key(0), x))
  assert_trees_equal(variables, added)
  params = str_jax.effective_params(method, variables)
  assert (params['kernel'] == 0).any()
  assert_trees_equal(
    sparse.apply(variables, x), dense.apply({'params': params}, x)
  )
