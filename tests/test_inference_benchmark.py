"""benchmarks/inference.py on a shrunken network."""

import json

import pytest

from benchmarks import inference
from str_jax.inference import comparison, reading

SMALL = {
  'resnet50': {'stage_sizes': (1, 1), 'width': 8},
  'mobilenet_v1': {'width': 0.25, 'blocks': ((32, 1), (64, 2))},
}


@pytest.mark.parametrize('name', SMALL)
def test_a_row_of_the_table(name, monkeypatch, tmp_path):
  monkeypatch.setattr(comparison, '_LEAST_SECONDS', 0.0)
  monkeypatch.setattr(comparison, '_PAUSE_SECONDS', 0.0)
  model, variables = inference.network(name, 0.9, **SMALL[name])
  layers = reading.network(model, variables)
  found = comparison.compare(layers, (2, 33, 32, 3), 1, rounds=2)
  row = {'model': name, 'asked': 0.9, 'batch': 2, 'threads': 1}
  row |= inference.facts(found, inference.shares(layers, found))
  row = json.loads(json.dumps(row))
  assert row['sparsity'] == pytest.approx(0.9, abs=0.02)
  assert 0 <= row['sparse_layers'] <= row['layers'] == len(found.layers)
  assert 0 <= row['sparse_madds'] <= 1
  assert all(p['difference'] < 1e-4 for p in row['programs'])
  assert row['speedup'] == min(p['ratio'] for p in row['programs'][1:])
  printed = inference.table([row])
  assert f'| {name} | 1 | 2 | {row["sparsity"]:.2%} |' in printed
