"""Runs of main.py as a user starts them: processes, with virtual devices."""

from __future__ import annotations

import json
import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks import record


def start(
  arguments: Sequence[str],
  *,
  processes: int = 1,
  devices: int = 1,
  environment: dict[str, str] | None = None,
  **options: Any,
) -> list[subprocess.Popen[str]]:
  """Starts main.py, on this machine's CPU.

  Args:
    arguments: of main.py, but for those of several processes.
    processes: how many make the run.
    devices: virtual ones of each process.
    environment: variables beside this process's own.
    **options: of ``subprocess.Popen``.

  Returns:
    The processes; standard output and error come together through a pipe.
  """
  force = f'--xla_force_host_platform_device_count={devices}'
  own = {
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': xla_flags(force),
    'PYTHONUNBUFFERED': '1',
  }
  extra: list[list[str]] = [[]]
  if processes > 1:
    address = f'localhost:{free_port()}'
    extra = [
      [
        f'--coordinator={address}',
        f'--num_processes={processes}',
        f'--process_index={index}',
      ]
      for index in range(processes)
    ]
  defaults = {'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT}
  return [
    subprocess.Popen(
      [sys.executable, str(record.ROOT / 'main.py'), *arguments, *more],
      env=os.environ | own | (environment or {}),
      cwd=record.ROOT,
      text=True,
      **defaults | options,
    )
    for more in extra
  ]


def run(
  arguments: Sequence[str], *, timeout: float = 600, **settings: Any
) -> list[tuple[int, str]]:
  """Starts main.py and waits for it; see :func:`start`.

  Returns:
    Exit code and output of each process.
  """
  started = start(arguments, **settings)
  try:
    ended = []
    for process in started:
      output, _ = process.communicate(timeout=timeout)
      ended.append((process.returncode, output))
    return ended
  finally:
    for process in started:
      process.kill()


def metrics(workdir: pathlib.Path, kind: str = 'train') -> list[dict[str, Any]]:
  """The lines of a kind in a run's metrics.jsonl."""
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [r for r in map(json.loads, lines) if r['kind'] == kind]


def xla_flags(flag: str) -> str:
  """XLA_FLAGS as they are, and one more, which counts."""
  return f'{os.environ.get("XLA_FLAGS", "")} {flag}'.strip()


def free_port() -> int:
  """A port that nobody listens to."""
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    return probe.getsockname()[1]
