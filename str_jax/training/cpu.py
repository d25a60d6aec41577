"""What makes a CPU train faster besides the way that its sums are written."""

from __future__ import annotations

import ctypes
import functools
import os
import pathlib
import platform
import sys
from typing import Any

_HUGE_PAGES = pathlib.Path('/sys/kernel/mm/transparent_hugepage/enabled')
_TUNABLES = 'GLIBC_TUNABLES'
_HUGETLB = 'glibc.malloc.hugetlb'
# All of what XLA leaves to its library YNNPACK but convolutions.
_FUSION = 'LIBRARY_FUSION_TYPE_'
_OPTIONS = {
  'xla_cpu_experimental_ynn_fusion_type': (
    f'{_FUSION}INDIVIDUAL_DOT,{_FUSION}REDUCE'
  )
}


def use_huge_pages() -> None:
  """Starts the program anew, once, where huge pages must be asked for.

  XLA allocates the memory of a step anew every time, gigabytes of it, and the
  kernel hands it out page by page. With pages of 2 MiB in place of 4 KiB that
  takes a third of the time. Most systems give them to whoever asks, and glibc
  asks if told so before a program starts. To be called before anything is
  printed or imported that takes long.
  """
  asked = huge_pages()
  if asked and sys.executable:
    again = [sys.executable, *sys.orig_argv[1:]]
    os.execve(sys.executable, again, os.environ | asked)


def huge_pages() -> dict[str, str]:
  """The environment of a program that is to ask for them; empty if all is set.

  >>> set(huge_pages()) <= {'GLIBC_TUNABLES'}
  True
  """
  tunables = os.environ.get(_TUNABLES, '')
  if _HUGETLB in tunables or not _must_be_asked_for():
    return {}
  return {_TUNABLES: ':'.join(filter(None, (tunables, f'{_HUGETLB}=1')))}


def _must_be_asked_for() -> bool:
  if sys.platform != 'linux' or not _HUGE_PAGES.exists():
    return False
  library, version = platform.libc_ver()
  if library != 'glibc' or tuple(map(int, version.split('.')[:2])) < (2, 35):
    return False  # older ones do not know how to ask
  return '[madvise]' in _HUGE_PAGES.read_text()


def release_memory() -> None:
  """Gives back what the compiler took: glibc keeps it for the next time."""
  if sys.platform == 'linux':
    trim = getattr(ctypes.CDLL(None), 'malloc_trim', lambda _: 0)
    trim(0)


def compiler_options(lowering: str) -> dict[str, str]:
  """Options for jax.jit of a program that trains on the CPU.

  On several cores XLA computes a convolution with up to 64 channels on one of
  them, as its library YNNPACK does not divide these; its older code does. On
  a single core that library is the faster.

  Args:
    lowering: of the model; 'xla' needs none.

  Returns:
    ``compiler_options``; none where this version of XLA does not know them.
  """
  if lowering != 'cpu' or cores() == 1:
    return {}
  return _known_options()


def cores() -> int:
  """The cores that this process may use, which XLA makes as many threads of."""
  if sys.platform == 'linux':
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


@functools.cache
def _known_options() -> dict[str, str]:
  import jax

  program: Any = jax.jit(lambda: 0, compiler_options=_OPTIONS)
  try:
    program.lower().compile()
  except jax.errors.JaxRuntimeError:
    return {}
  return _OPTIONS
