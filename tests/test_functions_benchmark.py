"""The benchmark of functions, small."""

import numpy as np
import pytest

from benchmarks import functions
from str_jax.inference import comparison

SMALL = {
  'WideResNet-34-2': {'size': 8, 'stage_sizes': (1, 1, 1), 'widen': 1},
  functions.MLP: {'units': 32},
}


@pytest.mark.parametrize('name', SMALL)
def test_a_row_of_the_table(name, monkeypatch):
  monkeypatch.setattr(comparison, '_LEAST_SECONDS', 0.0)
  monkeypatch.setattr(comparison, '_PAUSE_SECONDS', 0.0)
  monkeypatch.setattr(functions.importlib.util, 'find_spec', lambda name: None)
  case = functions.case(name, 0.9, 2, **SMALL[name])
  found = functions.measure(case, 1, rounds=1)
  assert 0 < found['layers'] and found['sparse_layers'] <= found['layers']
  ours, dense = found['programs']
  assert found['speedup'] == dense['ratio'] and dense['difference'] < 1e-4
  row = {'model': name, 'asked': 0.9, 'batch': 2, 'threads': 1, **found}
  last = functions.table([row]).splitlines()[-1]
  assert last.startswith(f'| {name} | 1 | 2 | 90% | **{dense["ratio"]:.2f}**')


def test_zeros_are_those_asked_for():
  case = functions.case(functions.MLP, 0.9, 1, units=40)
  layers = [layer.weight for layer in case.weights.layers]
  shares = [1 - np.count_nonzero(w) / w.size for w in layers]
  assert shares == pytest.approx([0, 0.9, 0.9, 0], abs=0.01)
