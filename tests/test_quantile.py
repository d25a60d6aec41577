from fractions import Fraction

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from str_jax import quantile

pytestmark = pytest.mark.usefixtures('strict')


def trees():
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
  return {
    'normal': {'a': normal(7, 5), 'b': [normal(11), normal(2, 3, 4)]},
    'ties': [np.repeat(np.float32([0.5, -0.5, 2.0]), 9), normal(4)],
    'zeros': [np.zeros((3, 3), np.float32), normal(5)],
    'all_equal': [np.full((4, 4), -0.3, np.float32)],
    'wide_range': [np.float32([1e-30, -1e30, 3e38, 2e-38, 0.0, -0.0])],
    'bfloat16': [normal(40).astype(ml_dtypes.bfloat16), normal(9)],
    'one': [np.float32([-2.5])],
  }


def magnitudes(tree):
  leaves = [np.abs(w.astype(np.float32)).ravel() for w in jax.tree.leaves(tree)]
  return np.concatenate(leaves)


@pytest.mark.parametrize('name', trees())
def test_every_rank_equals_a_sort(name):
  tree = trees()[name]
  kth = jax.jit(quantile.kth_magnitude)
  ordered = np.sort(magnitudes(tree))
  found = [kth(tree, jnp.int32(k)) for k in range(1, len(ordered) + 1)]
  np.testing.assert_array_equal(np.array(found), ordered)
  assert kth(tree, jnp.int32(0)) == 0
  assert kth(tree, jnp.int32(len(ordered) + 1)) == np.inf


@pytest.mark.parametrize('name', trees())
def test_wherever_it_looks_first_it_finds_the_same(name):
  tree = trees()[name]
  kth = jax.jit(lambda k, near: quantile.kth_magnitude(tree, k, near=near))
  each = jax.jit(
    lambda ks, near: quantile.kth_magnitudes(
      jax.tree.leaves(tree), ks, near=near
    )
  )
  ordered = np.sort(magnitudes(tree))
  guesses = [0.0, 1e-40, 1e38, np.inf, np.nan, 1.0]
  ranks = sorted({0, 1, 2, len(ordered) // 2, len(ordered)})
  for k in (*ranks, len(ordered) + 1):
    expected = quantile.kth_magnitude(tree, jnp.int32(k))
    here = [expected, expected * 1.001, expected * 0.9, expected * 1.1]
    for near in (*guesses, *here):
      assert kth(jnp.int32(k), jnp.float32(near)) == expected, (k, near)
  leaves = jax.tree.leaves(tree)
  ks = jnp.array([w.size - i % 2 for i, w in enumerate(leaves)])
  expected = quantile.kth_magnitudes(leaves, ks)
  for near in guesses:
    near = jnp.full(len(leaves), near, jnp.float32)
    np.testing.assert_array_equal(each(ks, near), expected)
  np.testing.assert_array_equal(each(ks, expected), expected)


def test_near_spares_half_of_the_passes():
  """Counted by their callbacks, with ten thousand weights."""
  rng = np.random.default_rng(0)
  w = jnp.asarray(rng.normal(size=10_000), 'f4')
  passes = []
  original = quantile._counts

  def counting(leaves, c, scales):
    jax.debug.callback(lambda: passes.append(1))
    return original(leaves, c, scales)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(quantile, '_counts', counting)
    c = quantile.kth_magnitude([w], 9000)
    jax.effects_barrier()
    assert 29 <= len(passes) <= 31
    for near, most in ((c, 17), (c * 1.001, 17), (c * 2, 33)):
      passes.clear()
      assert quantile.kth_magnitude([w], 9000, near=near) == c
      jax.effects_barrier()
      assert len(passes) <= most


@pytest.mark.parametrize('name', trees())
def test_with_a_count_per_weight(name):
  tree = trees()[name]
  leaves = jax.tree.leaves(tree)
  uses = tuple(3**i for i in range(len(leaves)))
  weighted = np.sort(
    np.concatenate(
      [
        np.repeat(np.abs(w.astype(np.float32)).ravel(), u)
        for w, u in zip(leaves, uses)
      ]
    )
  )
  assert quantile.total_count(tree, uses) == len(weighted)
  kth = jax.jit(quantile.kth_magnitude, static_argnames='uses')
  for k in range(1, len(weighted) + 1, 3):
    assert kth(tree, jnp.int32(k), uses=uses) == weighted[k - 1]


def test_totals_beyond_int32_are_exact_to_one_use():
  # One weight more or less decides: its uses alone exceed float32's integers.
  tree = [jnp.array([1.0, 3.0]), jnp.array([2.0])]
  uses = (2**31 + 1, 3)
  for k, expected in (
    (2**31 + 1, 1.0),
    (2**31 + 2, 2.0),
    (2**31 + 4, 2.0),
    (2**31 + 5, 3.0),
    (2**32 + 5, 3.0),
    (2**32 + 6, np.inf),
  ):
    assert quantile.kth_magnitude(tree, k, uses=uses) == expected


def test_a_traced_float_rank_beyond_int32():
  tree = [jnp.array([1.0, 3.0]), jnp.array([2.0])]
  kth = jax.jit(lambda k: quantile.kth_magnitude(tree, k, uses=(2**31, 2**31)))
  assert kth(jnp.float32(2**31)) == 1.0
  assert kth(jnp.float32(1.5 * 2**31)) == 2.0
  assert kth(jnp.float32(2.5 * 2**31)) == 3.0


def test_scales_meet_the_rank_by_the_forwards_own_comparison():
  rng = np.random.default_rng(1)
  tree = [rng.normal(size=s).astype(np.float32) for s in (301, (40, 7))]
  scales = (0.37, 1.9)
  for k in (1, 100, 400, 581):
    c = np.float32(quantile.kth_magnitude(tree, k, scales=scales))
    zeros = sum(
      (np.abs(w) <= c * np.float32(s)).sum() for w, s in zip(tree, scales)
    )
    below = np.nextafter(c, np.float32(0))
    fewer = sum(
      (np.abs(w) <= below * np.float32(s)).sum() for w, s in zip(tree, scales)
    )
    assert fewer < k <= zeros
    assert int(quantile.count_up_to(tree, c, scales=scales)) == zeros


def test_next_magnitude():
  tree = [jnp.array([1.0, -2.0, 2.0]), jnp.array([5.0])]
  ordered = [
    float(quantile.next_magnitude(tree, jnp.float32(c))) for c in (0, 1, 2, 5)
  ]
  assert ordered == [1.0, 2.0, 5.0, np.inf]


def test_sharded_weights_are_neither_gathered_nor_sorted():
  mesh = jax.make_mesh(
    (8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,)
  )
  w = np.random.default_rng(2).normal(size=(64, 32)).astype(np.float32)
  sharded = jax.device_put(w, NamedSharding(mesh, PartitionSpec('data')))
  tree = {'a': sharded, 'b': jnp.asarray(w[:5, 0])}
  ordered = np.sort(magnitudes(tree))
  kth = jax.jit(quantile.kth_magnitude, static_argnums=1)
  for k in (1, 1000, len(ordered)):
    assert kth(tree, k) == ordered[k - 1]
  text = kth.lower(tree, 1000).compile().as_text()
  assert 'all-reduce' in text
  assert 'all-gather' not in text and ' sort(' not in text


@pytest.mark.parametrize('sparsity', [0.0, 0.25, 0.9, 1.0])
def test_a_rank_from_a_sparsity_zeroes_that_many(sparsity):
  w = jnp.asarray(np.random.default_rng(3).normal(size=1000), jnp.float32)
  k = int(Fraction(str(sparsity)) * 1000)
  assert (jnp.abs(w) <= quantile.kth_magnitude([w], k)).sum() == k


def test_errors_say_what_is_wanted():
  with pytest.raises(ValueError, match='at least one weight'):
    quantile.kth_magnitude({}, 1)
  with pytest.raises(ValueError, match='uses needs one number for each of'):
    quantile.kth_magnitude([jnp.ones(2)], 1, uses=(1, 2))
