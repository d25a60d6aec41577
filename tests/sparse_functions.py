"""Functions with sparse weights, computed by kernels and as they are."""

import jax
import jax.numpy as jnp
import numpy as np

from str_jax import inference

RNG = np.random.default_rng(0)


def normal(*shape, density=1.0):
  values = RNG.normal(size=shape) * (RNG.random(shape) < density)
  return jnp.asarray(values, jnp.float32)


def lively(tree, density=0.3):
  """The same tree with other numbers, its matrices full of zeros."""
  return jax.tree.map(
    lambda x: (
      normal(*x.shape, density=density if x.ndim > 1 else 1.0) * 0.3
      if jnp.issubdtype(x.dtype, jnp.floating)
      else x
    ),
    tree,
  )


def check(function, weights, *inputs, backend='native', least=1, atol=2e-5):
  """Builds a function, on other inputs too the same; what was built."""
  fast = inference.build_function(
    function, weights, *inputs, mode='sparse', backend=backend
  )
  others = jax.tree.map(
    lambda x: (
      normal(*x.shape) if jnp.issubdtype(x.dtype, jnp.floating) else jnp.flip(x)
    ),
    inputs,
  )
  for given in (inputs, others):
    out = fast(*given)
    expected = jax.jit(function)(weights, *given)
    assert jax.tree.structure(out) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(expected)):
      assert a.shape == b.shape and a.dtype == b.dtype
      np.testing.assert_allclose(a, b, atol=atol)
  taken = [layer for layer in fast.layers if layer.kernel.sparse]
  assert len(taken) >= least, fast.layers
  if backend == 'native':
    assert not any(layer.kernel.csr for layer in taken)
  return fast
