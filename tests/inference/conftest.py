"""What the tests of the kernels start from."""

import shutil

import jax
import pytest

from str_jax.inference import functions, native


@pytest.fixture(scope='module')
def kernels():
  """The C++ kernels, which every machine with a compiler has."""
  if not any(map(shutil.which, native._COMPILERS)):
    pytest.skip('there is no C++ compiler')
  native.register()


@pytest.fixture
def untimed(monkeypatch):
  """The last one is taken for the fastest: a C++ kernel where there is one."""

  def seconds(calls):
    for call in calls.values():
      jax.block_until_ready(call())
    return {key: 1.0 / (1 + i) for i, key in enumerate(calls)}

  monkeypatch.setattr(functions, 'seconds', seconds)
