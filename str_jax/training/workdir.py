"""The folder of a run: whose it is, and the summary it ends with."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator
from typing import Any

# A run may go on with these changed: they do not change its numbers.
_FREE = ('data_dir', 'num_workers', 'eval_batch_size')


def claim(workdir: pathlib.Path, config: Any) -> None:
  """Makes the folder and notes whose it is.

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
  try:
    workdir.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise ValueError(
      f'--workdir {workdir} cannot be made: {error.strerror}.'
    ) from error
  path = workdir / 'config.json'
  # Through JSON, so that tuples compare as the lists that JSON makes of them.
  ours = json.loads(json.dumps(config.to_dict()))
  if not path.exists():
    write_json(path, ours)
    return
  try:
    theirs = json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(
      f'{path} cannot be read ({error}): choose another --workdir.'
    ) from error
  differences = [
    f'{name}={ours_value!r} (there: {theirs_value!r})'
    for name, ours_value, theirs_value in _differences(ours, theirs)
    if name not in _FREE
  ]
  if differences:
    raise ValueError(
      f'{workdir} belongs to a run with another config: '
      f'{", ".join(differences)}. Choose another --workdir.'
    )


def read_summary(workdir: pathlib.Path) -> dict[str, Any] | None:
  """The summary of a finished run, None where it has not finished.

  Args:
    workdir: the folder of a run.

  Returns:
    The content of summary.json.

  Raises:
    ValueError: the file cannot be read.
  """
  path = workdir / 'summary.json'
  if not path.exists():
    return None
  try:
    return json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(
      f'{path} cannot be read ({error}): delete it and run the command '
      'again to make it anew.'
    ) from error


def write_json(path: pathlib.Path, content: Any) -> None:
  """Writes JSON so that a kill leaves the old file or the new one.

  Args:
    path: the file.
    content: what it is to hold.
  """
  unfinished = path.with_suffix('.unfinished')
  unfinished.write_text(json.dumps(content, indent=1) + '\n')
  unfinished.replace(path)


def _differences(
  ours: dict[str, Any], theirs: dict[str, Any], prefix: str = ''
) -> Iterator[tuple[str, Any, Any]]:
  for name in sorted(set(ours) | set(theirs)):
    a, b = ours.get(name), theirs.get(name)
    if isinstance(a, dict) and isinstance(b, dict):
      yield from _differences(a, b, f'{prefix}{name}.')
    elif a != b:
      yield f'{prefix}{name}', a, b
