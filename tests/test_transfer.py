"""The budget-transfer session: which commands it gives, what it tells."""

import json
import pathlib
import sys

import pytest

from benchmarks import transfer


@pytest.fixture
def commands(tmp_path, monkeypatch):
  """The commands given, answered with the summaries of made-up runs."""
  given = []

  def call(*arguments):
    given.append(arguments)
    workdir = [a for a in arguments if a.startswith('--workdir=')]
    if not workdir:
      return
    kept = 30 if 'uniform' in workdir[0] else 20
    folder = pathlib.Path(workdir[0].partition('=')[2])
    folder.mkdir(parents=True)
    layers = [{'name': 'stem', 'nonzero': kept}, {'name': 'fc', 'nonzero': 5}]
    summary = {'layers': layers, 'top1': 0.8, 'sparsity': 0.9, 'flops': 1}
    summary |= {'dense_flops': 10, 'model': 'net', 'steps': 7, 'note': ''}
    (folder / 'summary.json').write_text(json.dumps(summary))

  monkeypatch.setattr(transfer, 'call', call)
  monkeypatch.setattr(transfer, 'RESULTS', tmp_path)
  options = ['configs/cifar10.py', '--methods=dnw', f'--runs={tmp_path}/runs']
  monkeypatch.setattr(sys, 'argv', ['transfer', *options])
  return given


def test_the_session(commands, tmp_path):
  transfer.main()
  str_run, report, dnw, gmp = commands
  assert str_run[:2] == ('main.py', '--config=configs/cifar10.py:str')
  budget = f'{tmp_path}/runs/cifar10-budget.csv'
  assert report[:4] == ('-m', 'str_jax', 'report', f'--budget={budget}')
  assert f'--config.method.budget={budget}' in dnw
  assert '--config.method.sparsity=0.90000' in gmp
  text = (tmp_path / 'cifar10_transfer.md').read_text()
  assert '| dnw, with the budget | 80.00% | 90.000% | 10.00% | 0 |' in text
  assert '| gmp, the same in every layer | 80.00% ' in text and '| 10 |' in text
  transfer.main()  # finished runs are taken as they are
  assert len(commands) == 5
