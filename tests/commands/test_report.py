"""`python -m str_jax report`: the files that it writes beside the page."""

import argparse
import json

import pages
import pytest

from str_jax import __main__ as command_line
from str_jax import budgets
from str_jax.commands import report as command
from str_jax.report import Layer, Report
from str_jax.training import page, runs_page

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
  summary = pages.summary(
    **{name: getattr(LAYERS, name) for name in totals},
    layers=LAYERS.to_dicts(),
  )
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


@pytest.fixture
def several(tmp_path, monkeypatch):
  """Two finished runs and one that is not, in the folder of the command."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.delenv('STR_JAX_TRACEBACK', raising=False)
  monkeypatch.setattr(runs_page, 'text', lambda runs, notes: f'{len(runs)}')
  for seed, name in enumerate('ab'):
    pages.leave(tmp_path / name, config={'seed': seed})
  (tmp_path / 'c').mkdir()
  (tmp_path / 'c' / 'config.json').write_text('{}')
  return tmp_path


def test_several_runs_make_one_page(several, capsys):
  command_line.main(['report', 'a', 'b', 'c'])
  assert (several / 'runs.html').read_text() == '2'
  printed = capsys.readouterr().out
  assert 'Not finished and left out: c.' in printed
  assert printed.endswith('report of 2 runs: runs.html\n')
  command_line.main(['report', 'a', 'b', '--out=other.html'])
  assert (several / 'other.html').read_text() == '2'


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    ('a --out=x', '--out is for several runs, got one'),
    ('a b --csv=x', '--csv is for one run, got 2'),
    ('a nosuch', 'nosuch is no run'),
    ('a b --out=no/x', 'no/x cannot be written'),
    ('c', 'c holds a run that is not finished: give the training command'),
  ],
)
def test_a_mistake_is_one_sentence(several, arguments, said, capsys):
  with pytest.raises(SystemExit) as end:
    command_line.main(['report', *arguments.split()])
  error = capsys.readouterr().err
  assert end.value.code == 2 and said in error and error.count('\n') == 1
  assert not (several / 'x').exists()


@pytest.mark.parametrize('runs', ['a', 'a b'])
def test_json_of_wrong_types_is_one_sentence(several, runs, capsys):
  pages.leave(several / 'a', layers='none')
  with pytest.raises(SystemExit):
    command_line.main(['report', *runs.split()])
  error = capsys.readouterr().err
  assert 'layers in a/summary.json should be a list' in error
  assert error.count('\n') == 1
