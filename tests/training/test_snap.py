"""Networks pruned to a target in one go: ``python -m str_jax snap``."""

import json
import shlex
import shutil

import jax
import numpy as np
import pytest

import str_jax
from str_jax import __main__ as command_line
from str_jax import paths
from str_jax.training import checkpoint, finish, flags, loop, norms, opened
from str_jax.training import snap as snaps

pytestmark = pytest.mark.usefixtures('quick')


@pytest.fixture
def source(recorded, tmp_path):
  """A copy of the folder of STR's run: 20 steps, two fifths of it are zero."""
  shutil.copytree(recorded('str').directory, tmp_path / 'run')
  return tmp_path / 'run'


def kernels_of(directory):
  variables = checkpoint.read_variables(directory)
  return paths.kernels(variables['params'])


def effective(stage, variables):
  return {
    name: np.asarray(w)
    for name, w in paths.kernels(
      str_jax.effective_params(stage.method, variables)
    ).items()
  }


def smallest_kept(weights, uses, budget):
  """The weights without the smallest, one by one until the budget is met."""
  entries = sorted(
    (abs(float(w)), name, i)
    for name, array in weights.items()
    for i, w in enumerate(array.ravel())
  )
  used = sum(uses[name] for m, name, _ in entries if m)
  kept = {name: w.copy() for name, w in weights.items()}
  for magnitude, name, i in entries:
    if used <= budget:
      break
    kept[name].ravel()[i] = 0
    used -= uses[name] if magnitude else 0
  return kept


@pytest.mark.parametrize(
  'asked, budget',
  [
    ({'sparsity': 0.9}, 40),  # of 404 weights
    ({'sparsity': 0.873}, 51),
    ({'nonzero': 17}, 17),
    ({'flops': 0.1}, 699),  # of 6,992 multiply-adds
    ({'madds': 1001}, 1001),
  ],
)
def test_it_takes_the_smallest_until_the_target_is_met(asked, budget, source):
  run, stage, state = opened.checkpoint(source)
  trained = effective(stage, state.variables)
  by_flops = 'flops' in asked or 'madds' in asked
  uses = {'stem': 64, 'conv1': 16, 'classifier': 1}
  uses = uses if by_flops else dict.fromkeys(uses, 1)
  expected = smallest_kept(trained, uses, budget)
  pruned = snaps.prune(run, stage, state.variables, asked)
  assert not any(
    path[-1] == 'kernel_threshold' for path in paths.named_leaves(pruned)
  )
  for name, w in paths.kernels(pruned['params']).items():
    np.testing.assert_allclose(w, expected[name], rtol=1e-6)
    np.testing.assert_array_equal(w == 0, expected[name] == 0)


def test_layers_that_the_run_leaves_dense_stay_so(make_config, tmp_path):
  """Also after the end of ST-3, when no threshold tells them apart."""
  config = make_config(
    'dense', model__first_layer_dense=True, model__last_layer_dense=True
  )
  run = loop.Run(config, tmp_path / 'run')
  stage = run.stage(run.plan.phases[0])
  variables = stage.init(0).variables
  pruned = snaps.prune(run, stage, variables, {'sparsity': 0.6})
  zeros = {
    name: int((w == 0).sum())
    for name, w in paths.kernels(pruned['params']).items()
  }
  assert zeros == {'stem': 0, 'classifier': 0, 'conv1': 404 - 161}
  with pytest.raises(ValueError, match='ask for sparsity from 0 to 0.71'):
    snaps.prune(run, stage, variables, {'sparsity': 0.9})


def test_the_command(source, capsys):
  before = finish.finished(source)
  trained = checkpoint.read_variables(source)
  capsys.readouterr()
  command_line.main(['snap', str(source), '--target=0.9', '--norm_batches=3'])
  printed = capsys.readouterr().out
  out = source.with_name('run-snap-0.9')
  summary = json.loads((out / 'summary.json').read_text())
  assert (summary['nonzero'], summary['steps']) == (40, 20)
  rows = {
    cells[1].strip(): [cell.strip() for cell in cells[2:-1]]
    for line in printed.splitlines()
    if len(cells := line.split('│')) == 8
  }
  names = ['as trained', 'snapped', 'BatchNorm re-estimated']
  as_trained, snapped, renewed = (rows[name] for name in names)
  assert as_trained[1] == f'{before["top1"]:.2%}'
  assert as_trained[3] == f'{before["nonzero"]:,}'
  assert renewed[1] == f'{summary["top1"]:.2%}'
  assert snapped[2:] == renewed[2:] == ['90.10%', '40', f'{summary["flops"]:,}']
  # What is in the folder: the weights left, with statistics of their own.
  run, stage, state = opened.checkpoint(out)
  again = norms.reestimate(run, stage, state.variables, 3)
  drift = norms.drift(state.variables, again)
  assert drift == {'stem_norm': 0.0, 'norm1': 0.0}
  assert max(norms.drift(trained, state.variables).values()) > 0.1
  config = json.loads((out / 'config.json').read_text())
  method = {k: v for k, v in config['method'].items() if v is not None}
  assert method == {'name': 'frozen'}
  command_line.main(['evaluate', str(out)])
  assert f'step 20, test: accuracy {summary["top1"]:.2%}' in (
    capsys.readouterr().out
  )
  command_line.main(['report', str(out)])
  assert '40 of 404 weights' in capsys.readouterr().out
  loop.train(run.config, out)  # as main.py would
  assert 'a finished run of 20 steps; nothing' in capsys.readouterr().out


def test_its_zeros_stay_in_fine_tuning(source, make_config, tmp_path):
  out = tmp_path / 'out'
  arguments = f'snap {source} --nonzero=60 --checkpoint=16 --out={out}'
  command_line.main([*arguments.split(), '--norm_batches=0'])
  there = checkpoint.read_variables(source, 16)['batch_stats']
  taken = checkpoint.read_variables(out)['batch_stats']
  jax.tree.map(np.testing.assert_array_equal, taken, there)
  summary = json.loads((out / 'summary.json').read_text())
  assert (summary['steps'], summary['best_step']) == (16, 16)
  config = make_config(method__name='frozen', init_from=str(out))
  tuned = loop.train(config, tmp_path / 'tuned')
  assert tuned['nonzero'] == summary['nonzero'] == 60
  after = kernels_of(tmp_path / 'tuned')
  for name, w in kernels_of(out).items():
    np.testing.assert_array_equal(after[name] == 0, w == 0)
    assert (after[name] != w).any()


def test_the_command_that_it_ends_with(source):
  """It sets what the training's command line set, and what frozen needs."""
  overrides = [
    '--config.total_epochs=3',
    '--config.optimizer.momentum=0.8',
    '--config.method.sparsity=0.5',
  ]
  config, _ = flags.load_config('configs/digits.py:st3', overrides)
  run, _, _ = opened.checkpoint(source)
  run.config = config
  command = shlex.split(snaps.again(run, source / 'a folder'))
  assert command[:3] == ['python', 'main.py', '--config=configs/digits.py:st3']
  loaded, changes = flags.load_config('configs/digits.py:st3', command[3:])
  assert changes == {
    'init_from': str(source / 'a folder'),
    'total_epochs': 3.0,
    'total_steps': None,
    'optimizer.momentum': 0.8,
    'method.name': 'frozen',
    'method.sparsity': None,
    'method.start_steps': None,
    'method.end_steps': None,
  }
  assert loaded.total_epochs == 3 and loaded.total_steps is None
  config.name = 'not-there'
  config.variant = ''
  assert '--config=configs/not-there.py --config.init_from=' in snaps.again(
    run, source
  )


MISTAKES = {
  '--target=0.05': 'has 40.84% zeros and uses 239 of 404 weights already, but',
  '--flops=1': 'uses 4,142 of 6,992 multiply-adds already, but 6,992 may',
  '--target=1': 'sparsity must be a fraction of zeros in [0, 1)',
  '--nonzero=0': 'nonzero must be a number of weights kept, 1 or more, got 0',
  '--target=0.9 --norm_batches=-1': '--norm_batches must be 0 or more, got -1',
  '--target=0.9 --checkpoint=0': 'was not trained yet at step 0',
  '--target=0.9 --checkpoint=7': "no checkpoint '7'; it has 0, ",
  '--target=0.9 --out={}/run': 'is there already: name another folder',
  '': 'one of the arguments --target --nonzero --flops --madds is required',
  '--target=0.9 --madds=9': 'not allowed with argument --target',
}


@pytest.mark.parametrize('arguments', MISTAKES)
def test_a_mistake_is_one_sentence(arguments, source, capsys, monkeypatch):
  monkeypatch.delenv('STR_JAX_TRACEBACK', raising=False)
  before = sorted(source.parent.rglob('*'))
  arguments = arguments.format(source.parent)
  with pytest.raises(SystemExit) as end:
    command_line.main(['snap', str(source), *arguments.split()])
  error = capsys.readouterr().err
  assert end.value.code == 2
  wanted = MISTAKES[arguments.replace(str(source.parent), '{}')]
  assert wanted in error.splitlines()[-1]
  assert sorted(source.parent.rglob('*')) == before


def test_nothing_is_left_of_one_that_is_stopped(source, monkeypatch):
  def fail(*args):
    assert out.exists()
    raise KeyboardInterrupt

  out = source.with_name('run-snap-nonzero9')
  monkeypatch.setattr(norms, 'reestimate', fail)
  with pytest.raises(SystemExit) as end:
    command_line.main(['snap', str(source), '--nonzero=9'])
  assert end.value.code == 130
  assert not out.exists()
