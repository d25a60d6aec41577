"""Huge pages, and what XLA is told on a CPU of several cores."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

from str_jax.training import cpu

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import os, sys
print('born', sys.argv[1:], os.environ.get('GLIBC_TUNABLES'), flush=True)
from str_jax.training import cpu
cpu._must_be_asked_for = lambda: {asked}
cpu.use_huge_pages()
print('runs', flush=True)
"""


def start(asked, **environment):
  inherited = {k: v for k, v in os.environ.items() if k != 'GLIBC_TUNABLES'}
  done = subprocess.run(
    [sys.executable, '-c', PROGRAM.format(asked=asked), '--a=1 2', 'b'],
    env=inherited | environment,
    cwd=ROOT,
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  return done.stdout.splitlines()


def test_a_program_starts_anew_once_with_its_arguments():
  arguments = "['--a=1 2', 'b']"
  assert start(True) == [
    f'born {arguments} None',
    f'born {arguments} glibc.malloc.hugetlb=1',
    'runs',
  ]


def test_other_tunables_stay():
  assert start(True, GLIBC_TUNABLES='glibc.malloc.check=0')[1].endswith(
    'glibc.malloc.check=0:glibc.malloc.hugetlb=1'
  )


@pytest.mark.parametrize(
  'asked, tunables',
  [(False, 'glibc.malloc.check=0'), (True, 'glibc.malloc.hugetlb=0')],
)
def test_it_goes_on_where_pages_need_not_or_must_not_be_asked_for(
  asked, tunables
):
  born, runs = start(asked, GLIBC_TUNABLES=tunables)
  assert born.endswith(tunables) and runs == 'runs'


@pytest.mark.parametrize(
  'system, glibc, choice, asks',
  [
    ('linux', ('glibc', '2.36'), 'always [madvise] never', True),
    ('linux', ('glibc', '2.36'), '[always] madvise never', False),
    ('linux', ('glibc', '2.31'), 'always [madvise] never', False),
    ('linux', ('', ''), 'always [madvise] never', False),
    ('linux', ('glibc', '2.36'), None, False),
    ('darwin', ('', ''), 'always [madvise] never', False),
  ],
)
def test_who_asks(system, glibc, choice, asks, tmp_path, monkeypatch):
  file = tmp_path / 'enabled'
  if choice:
    file.write_text(choice)
  monkeypatch.setattr(sys, 'platform', system)
  monkeypatch.setattr(cpu.platform, 'libc_ver', lambda: glibc)
  monkeypatch.setattr(cpu, '_HUGE_PAGES', file)
  assert cpu._must_be_asked_for() is asks


def test_several_cores_get_options_that_this_xla_knows(monkeypatch):
  monkeypatch.setattr(cpu, 'cores', lambda: 2)
  options = cpu.compiler_options('cpu')
  assert options
  assert int(jax.jit(lambda: 3, compiler_options=options)()) == 3
  assert cpu.compiler_options('xla') == {}
  monkeypatch.setattr(cpu, 'cores', lambda: 1)
  assert cpu.compiler_options('cpu') == {}


def test_an_xla_that_does_not_know_the_options_gets_none(monkeypatch):
  monkeypatch.setattr(cpu, 'cores', lambda: 2)
  monkeypatch.setattr(cpu, '_OPTIONS', {'xla_cpu_no_such_option': '1'})
  cpu._known_options.cache_clear()
  assert cpu.compiler_options('cpu') == {}
  cpu._known_options.cache_clear()
