"""What tests of several commands start from."""

import network_folders
import pytest
import quick_sweeps

from str_jax import __main__ as command_line
from str_jax.training import runs_page, setup, sweeps


@pytest.fixture(scope='session')
def runs(tmp_path_factory):
  """From an arch to its run's folder and what that holds."""
  made = {}

  def get(arch):
    if arch not in made:
      folder = tmp_path_factory.mktemp(arch) / 'run'
      made[arch] = folder, network_folders.make(folder, arch)
    return made[arch]

  return get


@pytest.fixture
def export(runs, tmp_path, monkeypatch, capsys):
  """Runs the command in a folder of its own; returns what it printed."""
  monkeypatch.chdir(tmp_path)

  def export(arch, *arguments):
    folder = runs(arch)[0] if arch in network_folders.MODELS else arch
    capsys.readouterr()
    command_line.main(['export', str(folder), *arguments])
    return capsys.readouterr().out

  return export


@pytest.fixture
def no_data(monkeypatch):
  def missing(config):
    raise FileNotFoundError('the data set is not here')

  monkeypatch.setattr(setup, 'dataset', missing)


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """Where sweeps are started, of a trainer that is quick."""
  (tmp_path / 'main.py').write_text(quick_sweeps.MAIN)
  monkeypatch.chdir(tmp_path)
  monkeypatch.delenv('STR_JAX_TRACEBACK', raising=False)
  # A run's config.json is the trainer's to check.
  monkeypatch.setattr(sweeps.workdir, 'check', lambda *unused: None)
  # The page has tests of its own.
  monkeypatch.setattr(runs_page, 'write', lambda runs, out: (runs, out)[1])
  return tmp_path
