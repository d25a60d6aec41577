"""What tests of several commands start from."""

import network_folders
import pytest

from str_jax import __main__ as command_line
from str_jax.training import setup


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
