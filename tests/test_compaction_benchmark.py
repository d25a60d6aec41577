"""The benchmark of dead filters, at its smallest."""

import json

import pytest

from benchmarks import alternate, filters


def at_once(contenders, *, alternations, seconds, threads):
  """As alternate.measure, in this process."""
  del alternations, seconds, threads
  for contender in contenders:
    contender.build(**contender.settings).run(1)
  return {
    'before': alternate.Result([4.0, 3.0], 0, 0, {}),
    'after': alternate.Result([1.0, 1.0], 0, 0, {}),
  }


def test_it_trains_cuts_and_times(monkeypatch, tmp_path):
  monkeypatch.setitem(filters.NETWORKS, 'convnet', {'widths': (4, 6)})
  monkeypatch.setattr(filters, 'RESULTS', tmp_path / 'filters.json')
  monkeypatch.setattr(alternate, 'measure', at_once)
  filters.main(
    '--networks=convnet --methods=st3 --targets=0.9 --steps=40'.split()
  )
  (row,) = json.loads((tmp_path / 'filters.json').read_text())
  assert row['sparsity'] == pytest.approx(0.9, abs=0.01)
  assert row['parameters_left'] < row['parameters']
  assert row['flops_left'] < row['flops']
  assert sum(layer['dead'] for layer in row['rows']) > 0
  assert row['largest_difference'] <= 1e-5 * max(1, row['largest_logit'])
  assert row['speedup'] == [3.5, 3.0, 4.0]
  text = (tmp_path / 'filters.md').read_text()
  assert '3.50 (3.00 to 4.00)' in text
  assert f'| stem | 4 | {row["rows"][0]["dead"]} / ' in text


def test_a_method_without_a_target(capsys):
  with pytest.raises(SystemExit):
    filters.main(['--methods=frozen'])
  assert 'the method frozen has no target' in capsys.readouterr().err
