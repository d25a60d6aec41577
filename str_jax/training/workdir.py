"""The folder of a run: whose it is."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import pathlib
import socket
from collections.abc import Iterator
from typing import Any

from str_jax.training import distributed, fields, records


def check(workdir: pathlib.Path, config: Any) -> None:
  """Checks that a folder is free or this config's own; writes nothing.

  Args:
    workdir: the folder.
    config: the config of the run.

  Raises:
    ValueError: the path is a file, or the folder is another config's.
  """
  if workdir.exists() and not workdir.is_dir():
    raise ValueError(
      f'--workdir must be a folder, but {workdir} is a file: name another.'
    )
  path = workdir / 'config.json'
  if not path.exists():
    if (workdir / 'checkpoints').exists():
      raise ValueError(
        f'{workdir} holds checkpoints, but no config.json that tells whose '
        'they are: restore it, or choose another --workdir.'
      )
    return
  differences = [
    f'{name}={_short(ours)} (there: {_short(theirs)})'
    for name, ours, theirs in _differences(
      records.as_json(config.to_dict()), records.read_json(path)
    )
    if name not in fields.FREE
  ]
  if differences:
    raise ValueError(
      f'{workdir} belongs to a run with another config: '
      f'{", ".join(differences)}. Choose another --workdir.'
    )


def claim(workdir: pathlib.Path, config: Any) -> None:
  """Makes the folder and notes whose it is.

  Args:
    workdir: the folder, checked.
    config: the config of the run, checked too: a folder claimed by a config
      with a mistake in it would not take the corrected one.

  Raises:
    ValueError: the folder cannot be made.
  """
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    if not (workdir / 'config.json').exists():
      records.write_json(workdir / 'config.json', config.to_dict())
  except OSError as error:
    raise ValueError(_unwritable(workdir, error)) from error


@contextlib.contextmanager
def held(workdir: pathlib.Path) -> Iterator[None]:
  """Keeps other runs out of a folder; its lock ends with the process.

  Args:
    workdir: the folder, made.

  Raises:
    ValueError: another process has it; the sentence says which.
  """
  with contextlib.ExitStack() as stack:
    distributed.on_first(lambda: _lock(workdir / 'lock', stack))
    yield


def _lock(path: pathlib.Path, stack: contextlib.ExitStack) -> None:
  try:
    file = stack.enter_context(path.open('a+'))
  except OSError as error:
    raise ValueError(_unwritable(path.parent, error)) from error
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    file.seek(0)
    raise ValueError(
      f'{path.parent} is in use by {file.read().strip() or "another process"}: '
      'wait for it, stop it, or choose another --workdir.'
    ) from error
  except OSError:  # a file system without locks: nobody can be kept out
    return
  now = datetime.datetime.now().isoformat(' ', 'seconds')
  file.truncate(0)
  file.write(f'process {os.getpid()} on {socket.gethostname()}, since {now}\n')
  file.flush()
  stack.callback(file.truncate, 0)  # the file stays: another may have it open


def _unwritable(workdir: pathlib.Path, error: OSError) -> str:
  cause = error.__cause__ or error  # the system's own
  reason = getattr(cause, 'strerror', None) or error
  return (
    f'--workdir {workdir} cannot be written: {reason}. Mend the folder, or '
    'choose another --workdir.'
  )


def _short(value: Any, most: int = 60) -> str:
  """A value as text, a long one only its beginning."""
  text = repr(value)
  return text if len(text) <= most else f'{text[:most]}...'


def _differences(
  ours: dict[str, Any], theirs: dict[str, Any], prefix: str = ''
) -> Iterator[tuple[str, Any, Any]]:
  for name in sorted(set(ours) | set(theirs)):
    a, b = ours.get(name), theirs.get(name)
    if isinstance(a, dict):
      yield from _differences(a, b or {}, f'{prefix}{name}.')
    elif a != b and (a is not None or name in theirs):
      yield f'{prefix}{name}', a, b  # an older config lacks new fields
