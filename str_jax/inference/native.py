"""The C++ kernels as a library: found in the package, or built when wanted."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading

import jax

SOURCES = pathlib.Path(__file__).with_name('kernels')
FUNCTIONS = (
  *('Product', 'Phases', 'Depthwise', 'MaxPool', 'Mean'),
  *('Enter', 'Leave'),
)
_COMPILERS = ('c++', 'g++', 'clang++')
_SECONDS = 300  # for a compiler
_LOCK = threading.Lock()
FLAGS = ('-O3', '-std=c++17', '-Wno-psabi')  # of GCC and Clang


class Missing(RuntimeError):
  """The kernels cannot be had here; the message says why and what to do."""


def target(function: str) -> str:
  """The name by which XLA knows a function.

  Args:
    function: one of `FUNCTIONS`.

  Returns:
    The name of its FFI target.
  """
  return f'str_jax_{function.lower()}'


def register() -> None:
  """Makes the kernels known to XLA; builds them where they are not yet.

  Raises:
    Missing: no compiler, or it fails; or the default device is no CPU.
  """
  if jax.default_backend() != 'cpu':
    raise Missing(
      f'the sparse kernels are for a CPU, but JAX runs on '
      f'{jax.default_backend()}: set JAX_PLATFORMS=cpu to have them.'
    )
  with _LOCK:
    _register()


@functools.cache
def _register() -> None:
  loaded = _packaged() or _load(library())
  for function in FUNCTIONS:
    jax.ffi.register_ffi_target(
      target(function),
      jax.ffi.pycapsule(getattr(loaded, f'StrJax{function}')),
      platform='cpu',
    )


def library() -> pathlib.Path:
  """The library of the kernels in the user's cache.

  It lies in $XDG_CACHE_HOME or ~/.cache, and is built on the first use with
  the compiler $CXX, c++, g++ or clang++.

  Returns:
    Its path.

  Raises:
    Missing: there is none, and it cannot be built.
  """
  try:
    cache = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
    path = pathlib.Path(cache) / 'str_jax' / f'kernels-{_fingerprint()}.so'
    if not path.exists():
      build(path)
  except (OSError, RuntimeError) as error:
    if isinstance(error, Missing):
      raise
    raise Missing(
      f'the sparse kernels have no folder to be built in ({error}): set '
      'XDG_CACHE_HOME to one that can be written.'
    ) from error
  return path


def build(path: pathlib.Path) -> None:
  """Compiles the kernels for the CPU of this machine.

  Args:
    path: of the library; it is there whole, or not at all.

  Raises:
    Missing: no compiler, or it fails.
    OSError: the folder cannot be written.
  """
  compiler = _compiler()
  print(f'building the sparse kernels once, into {path}', file=sys.stderr)
  path.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=path.parent) as folder:
    made = pathlib.Path(folder) / path.name
    files = [str(SOURCES / 'kernels.cc'), '-o', str(made)]
    own = '-march' if _is_x86() else '-mcpu'
    options = ['-fPIC', '-shared', '-DSTR_JAX_ONE_CPU', f'{own}=native']
    options += ['-isystem', jax.ffi.include_dir(), *macros()]
    command = [*compiler, *FLAGS, *options, *files]
    try:
      done = subprocess.run(
        command, capture_output=True, text=True, timeout=_SECONDS
      )
    except subprocess.TimeoutExpired:
      reason = f'it took more than {_SECONDS} s'
    else:
      if done.returncode == 0:
        os.replace(made, path)
        return
      reason = next(
        (line for line in done.stderr.splitlines() if 'error' in line),
        f'exit code {done.returncode}',
      )
  raise Missing(
    f'the sparse kernels could not be built with {" ".join(compiler)} '
    f'({reason}): set CXX to another C++17 compiler.'
  )


def macros() -> list[str]:
  """What tells a library which sources it was made of.

  Returns:
    Arguments of a compiler.
  """
  return [f'-DSTR_JAX_SOURCES="{_sources()}"']


def _packaged() -> ctypes.CDLL | None:
  """The library that came with the package, of the sources as they are."""
  for path in sorted(SOURCES.parent.glob('_kernels*.so')):
    try:
      return _load(path)
    except Missing:  # of other sources, or of another machine
      continue
  return None


def _load(path: pathlib.Path) -> ctypes.CDLL:
  try:
    loaded = ctypes.CDLL(str(path))
    made_of = ctypes.c_char_p.in_dll(loaded, 'StrJaxSources').value or b''
    if made_of.decode() != _sources():
      raise ValueError('it is of other sources')
  except (OSError, ValueError) as error:
    raise Missing(
      f'the sparse kernels in {path} do not load ({error}): delete the file, '
      'so that it is built anew, or set XDG_CACHE_HOME to a folder from which '
      'programs may be loaded.'
    ) from error
  return loaded


def _compiler() -> list[str]:
  asked = os.environ.get('CXX')
  for name in (asked,) if asked else _COMPILERS:
    words = shlex.split(name)
    if words and shutil.which(words[0]):
      return words
  raise Missing(
    'the sparse kernels need a C++ compiler, and '
    f'{f"{asked} was not" if asked else "none was"} found: install g++ or '
    'clang, or set CXX.'
  )


def _is_x86() -> bool:
  return platform.machine() in ('x86_64', 'AMD64')


@functools.cache
def _sources() -> str:
  files = sorted([*SOURCES.glob('*.h'), *SOURCES.glob('*.cc')])
  text = '\n'.join(path.read_text() for path in files)
  return hashlib.sha256(text.encode()).hexdigest()


def _fingerprint() -> str:
  """Changes with what is compiled, by what, and with the CPU."""
  parts = [
    _sources(),
    pathlib.Path(__file__).read_text(),
    importlib.metadata.version('jaxlib'),
    os.environ.get('CXX', ''),
    platform.system(),
    platform.machine(),
  ]
  cpu = pathlib.Path('/proc/cpuinfo')
  if cpu.exists():
    lines = cpu.read_text().lower().splitlines()
    parts += [x for x in lines if x.startswith(('flags', 'features'))][:1]
  return hashlib.sha256('\n'.join(parts).encode()).hexdigest()[:16]
