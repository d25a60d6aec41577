"""Where the C++ kernels come from, and what is said where they do not."""

import shutil
import subprocess

import jax
import jax.numpy as jnp
import pytest

import str_jax
from str_jax import inference
from str_jax.inference import native


@pytest.fixture(autouse=True)
def a_cache(monkeypatch, tmp_path):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  sources = shutil.copytree(native.SOURCES, tmp_path / 'sources' / 'kernels')
  monkeypatch.setattr(native, 'SOURCES', sources)  # beside no built library
  native._register.cache_clear()
  yield
  native._register.cache_clear()


def test_without_a_compiler_plain_jax_computes(monkeypatch):
  monkeypatch.setenv('CXX', 'no-such-compiler')
  with pytest.raises(native.Missing, match='no-such-compiler was not found'):
    native.register()
  model = str_jax.models.create('convnet', num_classes=10, widths=(4, 8))
  asked = {'mode': 'dense', 'images': (1, 8, 8, 1)}
  variables = model.init(jax.random.key(0), jnp.zeros(asked['images']))
  fast = inference.build(model, variables, **asked)
  assert fast.backend == 'XLA' and 'need a C++ compiler' in fast.note
  with pytest.raises(inference.Missing):
    inference.build(model, variables, backend='native', **asked)
  monkeypatch.delenv('CXX')
  monkeypatch.setenv('PATH', '')
  with pytest.raises(native.Missing, match='none was found: install g'):
    native.register()


def test_a_compiler_that_fails(monkeypatch, tmp_path):
  if not shutil.which('false'):
    pytest.skip('there is no program named false')
  monkeypatch.setenv('CXX', 'false')
  with pytest.raises(native.Missing, match='could not be built with .*exit c'):
    native.register()
  assert not list(tmp_path.rglob('*.so'))


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
  (tmp_path / 'str_jax').write_text('a file in the way')
  with pytest.raises(native.Missing, match='XDG_CACHE_HOME to one that can b'):
    native.register()


def test_without_a_home(monkeypatch):
  def home():
    raise RuntimeError('Could not determine home directory.')

  monkeypatch.delenv('XDG_CACHE_HOME')
  monkeypatch.setattr(native.pathlib.Path, 'home', home)
  with pytest.raises(native.Missing, match='no folder to be built in'):
    native.register()


def test_the_compiler_may_have_words_before_it(monkeypatch):
  monkeypatch.setenv('CXX', 'env A=1 g++')
  assert native._compiler() == ['env', 'A=1', 'g++']


def test_a_library_that_does_not_load(tmp_path):
  made = tmp_path / 'str_jax' / f'kernels-{native._fingerprint()}.so'
  made.parent.mkdir()
  made.write_bytes(b'not a library')
  with pytest.raises(native.Missing, match='do not load.*delete the file'):
    native.register()


def test_it_is_built_once(monkeypatch, tmp_path):
  built = []

  def build(path):
    path.parent.mkdir()
    path.touch()
    built.append(path)

  monkeypatch.setattr(native, 'build', build)
  assert native.library() == native.library() == built[0]
  assert built[0].is_relative_to(tmp_path) and len(built) == 1


def test_of_another_device(monkeypatch):
  monkeypatch.setattr(native.jax, 'default_backend', lambda: 'gpu')
  with pytest.raises(native.Missing, match='JAX runs on gpu'):
    native.register()


@pytest.mark.parametrize('same', [True, False])
def test_the_package_may_bring_it(same):
  """Of the same sources it is taken, of others left."""
  try:
    compiler = native._compiler()
  except native.Missing:
    pytest.skip('there is no C++ compiler')
  source = native.SOURCES.parent / 'stub.cc'
  made_of = native._sources() if same else 'others'
  source.write_text(
    f'extern "C" {{ extern const char* const StrJaxSources = "{made_of}"; }}'
  )
  brought = native.SOURCES.parent / '_kernels.abi3.so'
  options = ['-shared', '-fPIC', '-o', str(brought), str(source)]
  subprocess.run([*compiler, *options], check=True)
  assert (native._packaged() is not None) == same
