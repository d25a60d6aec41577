"""The C++ kernels as a library: found in the package, or built when wanted."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile

import jax

SOURCES = pathlib.Path(__file__).with_name('kernels')
FUNCTIONS = ('Product', 'Phases', 'Depthwise', 'MaxPool', 'Mean', 'Enter')
_COMPILERS = ('c++', 'g++', 'clang++')
_SECONDS = 300  # for a compiler


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


@functools.cache
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
  path = library()
  try:
    loaded = ctypes.CDLL(str(path))
    for function in FUNCTIONS:
      jax.ffi.register_ffi_target(
        target(function),
        jax.ffi.pycapsule(getattr(loaded, f'StrJax{function}')),
        platform='cpu',
      )
  except (OSError, AttributeError, jax.errors.JaxRuntimeError) as error:
    raise Missing(
      f'the sparse kernels in {path} do not load ({error}): delete the file, '
      'so that it is built anew.'
    ) from error


def library() -> pathlib.Path:
  """The library of the kernels.

  That of the package, where it was installed with one; else the one in the
  user's cache ($XDG_CACHE_HOME or ~/.cache), which is built on the first use
  with the compiler $CXX, c++, g++ or clang++.

  Returns:
    Its path.

  Raises:
    Missing: there is none, and it cannot be built.
  """
  built = sorted(SOURCES.parent.glob('_kernels*.so'))
  if built:
    return built[0]
  cache = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  path = pathlib.Path(cache) / 'str_jax' / f'kernels-{_fingerprint()}.so'
  if not path.exists():
    build(path)
  return path


def build(path: pathlib.Path) -> None:
  """Compiles the kernels.

  Args:
    path: of the library; it is there whole, or not at all.

  Raises:
    Missing: no compiler, or it fails, or the folder cannot be written.
  """
  compiler = _compiler()
  print(f'building the sparse kernels once, into {path}', file=sys.stderr)
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
      made = pathlib.Path(folder) / path.name
      command = [
        compiler,
        *flags(compiler),
        str(SOURCES / 'kernels.cc'),
        '-o',
        str(made),
      ]
      done = subprocess.run(
        command, capture_output=True, text=True, timeout=_SECONDS
      )
      if done.returncode == 0:
        os.replace(made, path)
        return
      reason = next(
        (line for line in done.stderr.splitlines() if 'error' in line),
        f'exit code {done.returncode}',
      )
  except (OSError, subprocess.TimeoutExpired) as error:
    reason = str(error)
  raise Missing(
    f'the sparse kernels could not be built with {compiler} ({reason}): set '
    'CXX to another C++17 compiler.'
  )


def flags(compiler: str) -> list[str]:
  """What a compiler is told, but for the files.

  Args:
    compiler: a program.

  Returns:
    Arguments of GCC and Clang.
  """
  arguments = ['-O3', '-std=c++17', '-fPIC', '-shared', '-Wno-psabi']
  said = subprocess.run(
    [compiler, '--version'], capture_output=True, text=True, timeout=_SECONDS
  ).stdout
  intel = platform.machine() in ('x86_64', 'AMD64')
  if not intel:
    arguments.append('-mcpu=native')
  elif 'clang' in said:
    arguments.append('-march=native')
  # Else GCC, which makes code for several kinds of CPU; see the source.
  return [*arguments, '-isystem', jax.ffi.include_dir()]


def _compiler() -> str:
  asked = os.environ.get('CXX')
  for name in (asked,) if asked else _COMPILERS:
    found = shutil.which(name)
    if found:
      return found
  raise Missing(
    f'the sparse kernels need a C++ compiler, and {asked or "none"} was '
    f'{"not " if asked else ""}found: install g++ or clang, or set CXX.'
  )


def _fingerprint() -> str:
  """Changes with the source, with what it includes, and with the CPU."""
  parts = [
    *(path.read_text() for path in sorted(SOURCES.iterdir())),
    importlib.metadata.version('jaxlib'),
    platform.platform(),
    platform.processor(),
  ]
  cpu = pathlib.Path('/proc/cpuinfo')
  if cpu.exists():
    lines = cpu.read_text().splitlines()
    parts += [x for x in lines if x.lower().startswith(('flags', 'features'))][
      :1
    ]
  return hashlib.sha256('\n'.join(parts).encode()).hexdigest()[:16]
