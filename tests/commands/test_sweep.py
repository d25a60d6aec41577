"""`python -m str_jax sweep`: runs, failures, signals and the table."""

import csv
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import threading
import time

import pytest
from quick_sweeps import ROOT, SPEC, begun, error_of, sweep

from str_jax.training import runs_page, sweep_runs, sweeps


def wait_for(found):
  for _ in range(600):
    if found():
      return
    time.sleep(0.05)
  raise TimeoutError


def test_every_value_with_every_seed_in_one_table(folder, capsys):
  sweep('--seeds=2', '--config.total_steps=900')
  names = [f'sparsity={s},seed={n}' for s in ('0.8', '0.90') for n in (0, 1)]
  assert begun(folder) == names
  printed = capsys.readouterr().out
  assert (
    '[4/4] sparsity=0.90,seed=1: accuracy 91.00%, sparsity 90.00%, 1.5 s'
  ) in printed
  assert '80.50 ± 0.71' in printed and 'report: out/report.html' in printed
  with open('out/sweep.csv') as file:
    rows = list(csv.DictReader(file))
  assert [row['method.sparsity'] for row in rows] == ['0.8', '0.90']
  assert float(rows[1]['top1_mean']) == pytest.approx(0.905)
  assert float(rows[1]['top1_std']) == pytest.approx(0.01 / 2**0.5)
  assert rows[1]['n'] == '2' and float(rows[1]['flops_mean']) == 2e6
  text = (folder / 'out' / 'sweep.md').read_text()
  assert '| 0.90 | 2 | 90.50 ± 0.71 | 90.00 ± 0.00 | 2.000 ± 0.000 |' in text
  # The same command again trains nothing; more seeds are added.
  sweep('--seeds=2', '--config.total_steps=900')
  assert begun(folder) == []
  assert 'seed=1: finished before, accuracy 91.00%' in capsys.readouterr().out
  sweep('--seeds=1,7', '--config.total_steps=900')
  assert begun(folder) == ['sparsity=0.8,seed=7', 'sparsity=0.90,seed=7']
  error = error_of(capsys, '--seeds=2', '--config.total_steps=800')
  assert "out belongs to another sweep: overrides {'total_steps': 800}" in error


def test_a_failure_is_named_and_tried_again(folder, capsys):
  (folder / 'fails').touch()
  # A tuple: JSON has none, and the folder is still this sweep's.
  set_field = '--config.schedule.boundaries_epochs=(3,5)'
  with pytest.raises(SystemExit) as end:
    sweep(set_field, over='method.sparsity=0.9,0.8')
  assert end.value.code == 1
  assert begun(folder) == ['sparsity=0.9,seed=0', 'sparsity=0.8,seed=0']
  output = capsys.readouterr()
  why = 'sparsity=0.9,seed=0: error: the learning rate is too high.'
  assert f'[1/2] {why}\n' in output.out
  assert f'not finished: {why}\n' in output.out and '0 of 1' in output.out
  assert output.err.startswith('1 of 2 runs are not finished: the same')
  content = json.loads((folder / 'out' / 'sweep.json').read_text())
  assert list(content['unfinished']) == ['sparsity=0.9,seed=0']
  assert [row['n'] for row in content['rows']] == [0, 1]
  assert f'- {why}' in (folder / 'out' / 'sweep.md').read_text()
  (folder / 'fails').unlink()
  sweep(set_field, over='method.sparsity=0.9,0.8')
  assert begun(folder) == ['sparsity=0.9,seed=0']
  content = json.loads((folder / 'out' / 'sweep.json').read_text())
  assert not content['unfinished']


@pytest.mark.parametrize(
  ('damage', 'said'),
  [
    (lambda content: content.pop('flops'), "lacks 'flops'"),
    (lambda content: content.update(top1='0.9'), "top1 in .* got '0.9'"),
  ],
)
def test_a_damaged_summary_is_named(folder, capsys, damage, said):
  sweep(over='method.sparsity=0.8')
  path = folder / 'out' / 'sparsity=0.8,seed=0' / 'summary.json'
  content = json.loads(path.read_text())
  damage(content)
  path.write_text(json.dumps(content))
  error = error_of(capsys, over='method.sparsity=0.8')
  assert re.search(f'{said}.*', error) and 'sparsity=0.8,seed=0' in error


def test_a_sweep_that_never_began_can_be_mended(folder):
  (folder / 'fails').touch()
  with pytest.raises(SystemExit):
    sweep('--config.batch_size=32', over='method.sparsity=0.9')
  (folder / 'fails').unlink()
  sweep('--config.batch_size=16', over='method.sparsity=0.9')


def test_a_signal_goes_to_the_run_at_hand(folder, capsys):
  (folder / 'waits').touch()

  def stop():
    wait_for(lambda: (run / 'ready').exists())
    os.kill(os.getpid(), signal.SIGTERM)

  run = folder / 'out' / 'sparsity=0.8,seed=0'
  thread = threading.Thread(target=stop)
  thread.start()
  with pytest.raises(SystemExit) as end:
    sweep()
  thread.join()
  assert end.value.code == 1 and (run / 'saved').exists()
  assert begun(folder) == ['sparsity=0.8,seed=0']
  printed = capsys.readouterr().out
  assert 'sparsity=0.8,seed=0: stopped by SIGTERM; the same command' in printed
  assert 'not finished: sparsity=0.90,seed=0: not begun' in printed
  assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_run_that_is_killed_is_said_so(folder, capsys):
  kill = 'import os\nos.kill(os.getpid(), 9)\n'
  (folder / 'main.py').write_text(kill)
  with pytest.raises(SystemExit):
    sweep(over='method.sparsity=0.8')
  printed = capsys.readouterr().out
  assert '[1/1] sparsity=0.8,seed=0: ended by SIGKILL\n' in printed


@pytest.mark.skipif(sys.platform != 'linux', reason="Linux's own means")
def test_a_killed_sweep_leaves_no_run_behind(folder):
  (folder / 'waits').touch()
  code = 'import sys; from str_jax import __main__; __main__.main(sys.argv[1:])'
  process = subprocess.Popen(
    [sys.executable, '-c', code, 'sweep', f'--config={SPEC}', '--out=out'],
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    stdout=subprocess.DEVNULL,
  )
  run = folder / 'out' / 'seed=0'
  wait_for(lambda: (run / 'ready').exists())
  process.kill()
  process.wait()
  wait_for(lambda: (run / 'saved').exists())


def test_print_gives_commands_and_does_nothing_else(folder, capsys):
  sweep('--seeds=2', '--print')
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 4 and not (folder / 'out').exists()
  words = shlex.split(lines[3])
  assert words[:2] == ['python', 'main.py']
  assert words[2:] == [
    f'--config={SPEC}',
    '--config.method.sparsity=0.90',
    '--config.seed=1',
    '--workdir=out/sparsity=0.90,seed=1',
  ]
  for line in lines[1:]:
    arguments = shlex.split(line)[1:]
    pathlib.Path(arguments[-1].partition('=')[2]).mkdir(parents=True)
    subprocess.run([sys.executable, *arguments], check=True)
  sweep('--seeds=2', '--print')
  assert capsys.readouterr().out.splitlines() == lines[:1]
  begun(folder)
  sweep('--seeds=2')  # collects them, and trains the one that is left
  assert begun(folder) == ['sparsity=0.8,seed=0']


def test_names_and_values():
  made = sweeps.create(
    SPEC,
    over=[
      'schedule.boundaries_epochs=(80,120),(60,)',
      'optimizer.name=sgd',
      'method.start_steps=None',
    ],
    seeds='3,7',
  )
  assert [trial.name for trial in made.trials] == [
    f'boundaries_epochs={b},optimizer=sgd,start_steps=None,seed={n}'
    for b in ('(80,120)', '(60,)')
    for n in (3, 7)
  ]
  assert str(made.directory) == (
    'runs/digits-st3-sweep-boundaries_epochs-optimizer-start_steps'
  )
  assert '--config.schedule.boundaries_epochs=(80,120)' in (
    made.trials[0].arguments
  )
  assert "'--config.schedule.boundaries_epochs=(80,120)'" in (
    made.trials[0].command
  )
  (alone,) = sweeps.create(SPEC, ['--config.seed=5']).trials
  assert alone.name == 'seed=5'
  assert alone.arguments.count('--config.seed=5') == 1


def test_the_trainer_itself(tmp_path, monkeypatch):
  """A sweep of one short run, by main.py."""
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(runs_page, 'write', lambda runs, out: out)
  sweep(
    *('--config.total_steps=2', '--config.schedule.warmup_steps=0'),
    *('--config.method.start_steps=0', '--config.method.end_steps=2'),
    over='method.sparsity=0.5',
    out=tmp_path,
  )
  row = json.loads((tmp_path / 'sweep.json').read_text())['rows'][0]
  assert row['n'] == 1 and row['sparsity_mean'] == pytest.approx(0.5, abs=1e-3)
  output = tmp_path / 'sparsity=0.5,seed=0' / sweep_runs.OUTPUT
  assert 'test accuracy' in output.read_text()


def test_the_sweep_leaves_accelerators_to_its_runs(folder, monkeypatch):
  import jax

  set_to = {}
  monkeypatch.setattr(jax.config, 'update', set_to.__setitem__)
  sweep('--print')
  assert set_to['jax_platforms'] == 'cpu'
