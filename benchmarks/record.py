"""Where a figure comes from: command, commit, machine, date; kept as JSON.

A file of results is a list of records. A new record takes the place of the
one with the same key, so that a table can be measured in several sessions and
every row says where and when.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / 'benchmarks' / 'results'


def origin(packages: Sequence[str] = ('jax', 'flax', 'torch')) -> dict:
  """Command, commit, date, machine and versions, as of now."""
  git = ['git', '-C', str(ROOT)]
  commit = _output([*git, 'rev-parse', '--short', 'HEAD'])
  changed = _output([*git, 'status', '--porcelain', '--untracked-files=no'])
  module = sys.modules['__main__'].__spec__
  name = (
    module.name.removesuffix('.__main__')
    if module
    else pathlib.Path(sys.argv[0]).name
  )
  return {
    'command': ' '.join(['python -m', name, *sys.argv[1:]]),
    'commit': commit + ('+' if changed else ''),
    'date': datetime.date.today().isoformat(),
    'machine': f'{processor()}, {len(os.sched_getaffinity(0))} cores',
    'versions': {'python': platform.python_version()} | _versions(packages),
  }


def processor() -> str:
  """The name of the processor."""
  with open('/proc/cpuinfo') as file:
    names = [
      x.split(':')[1].strip() for x in file if x.startswith('model name')
    ]
  return names[0] if names else platform.machine()


def device() -> str:
  """The name of the first accelerator, else of the processor."""
  query = ['nvidia-smi', '--query-gpu=name', '--format=csv,noheader']
  try:
    names = _output(query).splitlines()
  except FileNotFoundError:
    names = []
  return names[0] if names else processor()


def read(path: pathlib.Path) -> list[dict[str, Any]]:
  """The records of a file, none if it is not there."""
  return json.loads(path.read_text()) if path.exists() else []


def add(
  path: pathlib.Path, records: Sequence[dict[str, Any]], key: Sequence[str]
) -> list[dict[str, Any]]:
  """Puts records into a file, in place of those with the same key.

  Args:
    path: of the file.
    records: the new ones.
    key: the fields that tell what was measured.

  Returns:
    All records of the file.
  """
  identity = lambda record: [record.get(field) for field in key]
  new = [identity(record) for record in records]
  kept = [r for r in read(path) if identity(r) not in new]
  everything = sorted([*kept, *records], key=lambda r: str(identity(r)))
  path.parent.mkdir(parents=True, exist_ok=True)
  lines = ',\n'.join(json.dumps(record) for record in everything)
  path.write_text(f'[\n{lines}\n]\n')  # one a line: small, and seen in a diff
  return everything


def keep(
  path: pathlib.Path,
  records: Sequence[dict[str, Any]],
  key: Sequence[str],
  table: Callable[[list[dict[str, Any]]], str],
) -> list[dict[str, Any]]:
  """``add``, and all records as a table in a Markdown file beside the JSON."""
  everything = add(path, records, key)
  path.with_suffix('.md').write_text(table(everything))
  return everything


def markdown(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
  """A table: the first column to the left, the others to the right.

  >>> print(markdown(('what', 'ms'), [('sort', 3)]), end='')
  | what | ms |
  |---|---:|
  | sort | 3 |
  """
  lines = [header, ['---', *['---:'] * (len(header) - 1)], *rows]
  text = [f'| {" | ".join(map(str, cells))} |' for cells in lines]
  text[1] = text[1].replace(' ', '')
  return '\n'.join(text) + '\n'


def _output(command: Sequence[str]) -> str:
  done = subprocess.run(command, capture_output=True, text=True)
  return done.stdout.strip()


def _versions(packages: Sequence[str]) -> dict[str, str]:
  versions = {}
  for package in packages:
    try:
      versions[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      pass
  return versions
