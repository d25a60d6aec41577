"""Test-wide settings, and the tables that the contract tests run over."""

import atexit
import gc
import os
import pathlib
import runpy
import shutil
import sys
import tempfile
import types
from importlib.metadata import version

# Tracing makes many objects and little garbage: looking for it less often
# takes a seventh off the time of what is only traced.
gc.set_threshold(100_000, 20, 20)
# Before the first import of jax: eight virtual devices, and the host's own.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# Compiling is most of the tests' time, and their programs run for a moment:
# LLVM does without optimizations, which takes a third of the time.
QUICK = {
  'xla_backend_optimization_level': '0',
  'xla_cpu_parallel_codegen_split_count': '1',
}
# For `jax.jit`: compiled as users have it after all.
OPTIMIZED = {
  'xla_backend_optimization_level': 3,
  'xla_cpu_parallel_codegen_split_count': 32,
}
# XLA ends a process that sets a flag it does not know, as later ones this.
if tuple(map(int, version('jaxlib').split('.')[:2])) < (0, 11):
  QUICK['xla_cpu_use_fusion_emitters'] = 'false'
  OPTIMIZED['xla_cpu_use_fusion_emitters'] = True
HASTE = ' '.join(f'--{name}={value}' for name, value in QUICK.items())
USERS_FLAGS = os.environ.get('XLA_FLAGS', '').removeprefix(HASTE).strip()
os.environ['XLA_FLAGS'] = f'{HASTE} {USERS_FLAGS}'.strip()
# What is compiled is kept for all processes of the session.
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.05')
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:  # not the user's own
  os.environ['JAX_COMPILATION_CACHE_DIR'] = tempfile.mkdtemp()
  atexit.register(
    shutil.rmtree, os.environ['JAX_COMPILATION_CACHE_DIR'], ignore_errors=True
  )

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')

from str_jax import methods  # noqa: E402

METHODS = {
  'str': methods.create('str', init_value=-3.0),
  'str_exp_filter': methods.create(
    'str', init_value=-4.0, g='exp', granularity='filter', slope=2.0
  ),
  'str_weight': methods.create('str', init_value=-3.0, granularity='weight'),
  'str_global': methods.create('str', init_value=-3.0, granularity='global'),
  'str_target': methods.create('str', target=0.2, end_step=4),
  'str_target_filter': methods.create(
    'str',
    target=methods.Target(0.2, floor=1),
    end_step=4,
    granularity='filter',
    gradient_scale=0.3,
    rescale=True,
  ),
  'str_group': methods.create('str_group', init_value=0.0, slope=2.5),
  'str_group_target': methods.create(
    'str_group',
    target=methods.Target(0.1, floor=1),
    end_step=4,
    gradient_scale=0.3,
    rate=0.1,
  ),
  'st3': methods.create('st3', sparsity=0.8, end_step=4),
  'st3_hard': methods.create(
    'st3', sparsity=0.8, end_step=4, hard=True, rescale=False
  ),
  'st3_sigma': methods.create('st3_sigma', sparsity=0.8, end_step=4),
  'st3_target': methods.create('st3', target=0.2, end_step=4),
  'feather': methods.create('feather', sparsity=0.8, end_step=4),
  'gmp': methods.create('gmp', sparsity=0.8, end_step=4),
  'gmp_straight': methods.create(
    'gmp', sparsity=0.8, end_step=4, gradient='straight', budget='global'
  ),
  'dnw': methods.create('dnw', sparsity=0.8, budget='erk'),
  'st3_2_4': methods.create('st3', sparsity=0.6, end_step=4, pattern='2:4'),
  'frozen': methods.create('frozen'),
}


def pytest_collection_modifyitems(config, items):
  """Warnings raised in our own files are errors."""
  del config
  for item in items:
    for module in ('str_jax', 'main', 'test_'):
      item.add_marker(pytest.mark.filterwarnings(f'error:::{module}.*'))


@pytest.fixture
def strict():
  """Strict dtype promotion, as the core of the library is written for."""
  with jax.numpy_dtype_promotion('strict'):
    yield


@pytest.fixture(scope='session')
def assert_trees_equal():
  def check(actual, expected, **tolerance):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
      assert jnp.asarray(a).dtype == jnp.asarray(e).dtype
      if tolerance:
        np.testing.assert_allclose(a, e, **tolerance)
      else:
        np.testing.assert_array_equal(np.asarray(a), np.asarray(e))

  return check


@pytest.fixture
def setup_arguments(monkeypatch):
  """What setup.py passes to setuptools, which need not be installed."""
  seen = {}
  fake = types.SimpleNamespace(setup=seen.update, Extension=lambda *a, **k: a)
  monkeypatch.setitem(sys.modules, 'setuptools', fake)
  runpy.run_path(str(pathlib.Path(__file__).parents[1] / 'setup.py'))
  return seen
