"""The study of targets: its rows are trainings, and its tables say them."""

import json

import pytest

from benchmarks import record
from benchmarks.target import rows, study, tables
from str_jax.training import build, flags
from str_jax.training import plan as plans


@pytest.mark.parametrize('data', rows.DATA)
def test_every_row_is_a_run(data):
  inputs = build.Inputs((8, 8, 1), 10)
  chosen = rows.DATA[data]
  for row in rows.names():
    spec = str(record.ROOT / 'configs' / chosen.config)
    config, _ = flags.load_config(spec, [])
    config.update_from_flattened_dict(
      {'total_steps': 600, 'total_epochs': None, 'model.name': 'convnet'}
      | {k: v for k, v in chosen.fields.items() if k != 'model.name'}
      | rows.fields(row, 0.9, 600)
    )
    plan = plans.create(config, 957, inputs)
    plans.optimizer(config, plan, plan.phases[0])
    method = plan.phases[0].method
    if row in rows.TARGETED:
      assert method.target.sparsity == 0.9 and method.final_step == 300, row
    if row in rows.FLOPS:
      assert method.target.flops == pytest.approx(0.1), row


def test_a_row_is_trained_once_and_told_of(tmp_path, capsys, monkeypatch):
  arguments = ['digits', '--rows=default', '--targets=0.9', '--steps=3']
  arguments += [f'--out={tmp_path}', f'--runs={tmp_path}', '--together']
  arguments += ['--seeds=0,1']
  monkeypatch.setitem(rows.DATA['digits'].fields, 'schedule.warmup_steps', 1)
  study.main(arguments)
  study.main(arguments)
  test = [a for a in arguments if 'seeds' not in a]
  study.main([*test, '--seeds=5', '--test'])
  out = capsys.readouterr().out
  assert out.count('seed 0: validation') == 1
  found = json.loads((tmp_path / 'digits.json').read_text())
  assert [r['seed'] for r in found] == [0, 1, 5]
  # Of 56,224 weights; test images are looked at where asked for alone.
  assert [r['nonzero'] for r in found] == [5622] * 3
  assert ['top1' in r for r in found] == [False, False, True]
  assert len({r['validation_loss'] for r in found}) == 3
  text = tables.document(tmp_path, lambda r: 'top1' not in r, 'validation')
  assert '## digits, convnet, 3 steps' in text
  assert '| default |' in text and ', 2 (' in text and '90% zeros' in text
  assert tables.exactness(tmp_path) == (3, 0)


def test_seeds_that_chose_do_not_test(capsys):
  with pytest.raises(SystemExit):
    study.main(['digits', '--rows=default', '--seeds=4,5', '--test'])
  assert 'seeds from 5 on' in capsys.readouterr().err
