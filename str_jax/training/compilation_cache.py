"""Compiled programs that stay on disk, so that a second start is quick."""

from __future__ import annotations

import hashlib
import os
import pathlib
import platform

import jax

_LEAST_SECONDS = 0.2  # of compiling: below, reading is no faster


def enable() -> None:
  """Has jax keep what it compiles in the user's cache folder.

  Programs for a CPU hold its own instructions and would end a process on one
  that lacks them, so every kind of machine has a folder of its own: a home
  may be shared. Where jax has been told of a folder already, that one is
  used, and none where its cache is switched off.
  """
  config = jax.config
  if config.values['jax_compilation_cache_dir'] is None:
    config.update('jax_compilation_cache_dir', str(folder()))
    config.update('jax_persistent_cache_min_compile_time_secs', _LEAST_SECONDS)


def folder() -> pathlib.Path:
  """The folder for this kind of machine, under XDG_CACHE_HOME or ~/.cache.

  Returns:
    The folder; it need not exist.

  >>> folder().parent.name
  'str_jax'
  """
  base = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  kind = hashlib.sha256(_machine().encode()).hexdigest()[:12]
  return pathlib.Path(base, 'str_jax', f'xla-{kind}')


def _machine() -> str:
  """What tells apart machines that may not run each other's programs."""
  said = [platform.system(), platform.machine(), platform.processor()]
  cpus = pathlib.Path('/proc/cpuinfo')
  if cpus.exists():
    kinds = ('flags', 'Features', 'model name')
    lines = cpus.read_text().splitlines()
    said += sorted({line for line in lines if line.startswith(kinds)})
  return '\n'.join(said)
