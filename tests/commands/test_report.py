"""`python -m str_jax report`: the files that it writes beside the page."""

import argparse
import json

import pytest

from str_jax import budgets
from str_jax.commands import report as command
from str_jax.report import Layer, Report
from str_jax.training import page

LAYERS = Report(
  (
    Layer('stem', (3, 3, 1, 4), 36, 11, 0.1, 36),
    Layer('block/conv', (1, 1, 4, 8), 32, 32, None, 32),
    Layer('classifier', (7, 7), 49, 0, 0.5, 49),
  )
)


@pytest.fixture
def run(tmp_path, monkeypatch):
  """Runs the command on a finished run's folder, without its pictures."""
  monkeypatch.setattr(page, 'write', lambda directory: directory)
  totals = ('sparsity', 'weights', 'nonzero', 'dense_flops', 'flops')
  summary = {name: getattr(LAYERS, name) for name in totals} | {
    'layers': LAYERS.to_dicts(),
    'model': 'convnet',
    'dataset': 'digits',
    'method': 'STR()',
    'note': '',
    'top1': 0.9,
    'best_top1': None,
    'seconds': 1.0,
  }
  (tmp_path / 'summary.json').write_text(json.dumps(summary))

  def run(*arguments):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    command.run(parser.parse_args([str(tmp_path), *arguments]))

  return run


def test_the_budget_is_every_layers_sparsity_to_the_last_bit(run, tmp_path):
  budget, table = tmp_path / 'b.csv', tmp_path / 'layers.csv'
  run(f'--budget={budget}', f'--csv={table}')
  expected = {'stem': 1 - 11 / 36, 'block/conv': 0.0, 'classifier': 1.0}
  assert budgets.read_csv(budget) == expected
  assert budgets.read_csv(table) == expected
  assert budget.read_text().startswith('layer,sparsity\nstem,0.69444')


def test_nothing_is_written_that_was_not_asked_for(run, tmp_path, capsys):
  run()
  assert [path.name for path in tmp_path.iterdir()] == ['summary.json']
  assert 'block/conv' in capsys.readouterr().out
