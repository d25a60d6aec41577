"""The folder of compiled programs: whose, where, and that it serves."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

from str_jax.training import compilation_cache

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
NAMES = (
  'jax_compilation_cache_dir',
  'jax_persistent_cache_min_compile_time_secs',
)


@pytest.fixture
def config():
  """jax's settings, put back afterwards."""
  before = {name: jax.config.values[name] for name in NAMES}
  yield jax.config
  for name, value in before.items():
    jax.config.update(name, value)


def test_it_is_in_the_users_cache_folder(config, monkeypatch, tmp_path):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  config.update(NAMES[0], None)
  config.update(NAMES[1], 1.0)
  compilation_cache.enable()
  folder = pathlib.Path(config.jax_compilation_cache_dir)
  assert folder.parent == tmp_path / 'str_jax'
  assert config.jax_persistent_cache_min_compile_time_secs < 1
  monkeypatch.delenv('XDG_CACHE_HOME')
  home = compilation_cache.folder()
  assert home == pathlib.Path.home() / '.cache' / 'str_jax' / folder.name


def test_a_folder_that_jax_was_told_of_is_kept(config, tmp_path):
  config.update(NAMES[0], str(tmp_path))
  seconds = config.jax_persistent_cache_min_compile_time_secs
  compilation_cache.enable()
  assert config.jax_compilation_cache_dir == str(tmp_path)
  assert config.jax_persistent_cache_min_compile_time_secs == seconds


def test_another_kind_of_machine_has_another_folder(monkeypatch):
  here = compilation_cache.folder()
  assert here == compilation_cache.folder()
  monkeypatch.setattr(compilation_cache.platform, 'machine', lambda: 'other')
  assert compilation_cache.folder() != here


def test_a_second_start_compiles_nothing_anew(tmp_path):
  command = [sys.executable, 'main.py', '--config=configs/digits.py']
  command += ['--config.total_steps=2', '--config.schedule.warmup_steps=0']
  environment = os.environ | {'XDG_CACHE_HOME': str(tmp_path / 'cache')}
  environment.pop('JAX_COMPILATION_CACHE_DIR', None)
  kept = []
  for run in ('a', 'b'):
    subprocess.run(
      [*command, f'--workdir={tmp_path / run}'],
      cwd=ROOT,
      env=environment,
      check=True,
      capture_output=True,
    )
    folder = tmp_path / 'cache' / 'str_jax'
    kept.append([p.name for p in folder.glob('*/*train_step*-cache')])
  # The second start asks for the same program: under another key there would
  # be two. (What compiles in about 0.2 s may be kept by either.)
  assert kept[0] == kept[1] and len(kept[0]) == 1
