"""The folder of a run: whose it is."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator
from typing import Any

from str_jax.training import records

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
    records.write_json(path, ours)
    return
  theirs = records.read_json(path)
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


def _differences(
  ours: dict[str, Any], theirs: dict[str, Any], prefix: str = ''
) -> Iterator[tuple[str, Any, Any]]:
  for name in sorted(set(ours) | set(theirs)):
    a, b = ours.get(name), theirs.get(name)
    if isinstance(a, dict) and isinstance(b, dict):
      yield from _differences(a, b, f'{prefix}{name}.')
    elif a != b:
      yield f'{prefix}{name}', a, b
