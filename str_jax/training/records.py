"""The JSON files of a run: read with care, written in one go."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

Record = dict[str, Any]


def read_json(path: pathlib.Path) -> Record:
  """The object in a JSON file.

  Args:
    path: the file.

  Returns:
    Its content.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it does not hold one JSON object.
  """
  if not path.is_file():
    raise FileNotFoundError(
      f'{path} is missing: name the folder of a training run.'
    )
  try:
    content = json.loads(path.read_text())
  except ValueError:
    content = None
  if not isinstance(content, dict):
    raise ValueError(
      f'{path} should hold one JSON object and is damaged: restore it, or '
      'train into another --workdir.'
    )
  return content


def read_lines(path: pathlib.Path) -> list[Record]:
  """The records of a jsonl file; a last line that a kill cut is left out.

  Args:
    path: the file; a missing one has no records.

  Returns:
    The records in their order.

  Raises:
    ValueError: a line other than the last is damaged.
  """
  lines = path.read_bytes().splitlines() if path.exists() else []
  records = []
  for number, line in enumerate(lines, start=1):
    try:
      record = json.loads(line)
    except ValueError:
      record = None
    if isinstance(record, dict):
      records.append(record)
    elif number < len(lines):
      raise ValueError(
        f'line {number} of {path} should be a JSON object and is damaged: '
        'remove it.'
      )
  return records


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
  """Says which file could not be written, and what to do.

  Args:
    path: the file, or a folder that is written to.

  Raises:
    OSError: the storage refused; the sentence says why.
  """
  try:
    yield
  except OSError as error:
    raise OSError(
      f'{path} cannot be written ({error.strerror or error}): free space or '
      'mend the folder, then give the same command again.'
    ) from error


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a file so that a kill leaves the old one or the new one.

  Args:
    path: the file.
    text: what it is to hold.

  Raises:
    OSError: the path is a folder, or in none, or cannot be written.
  """
  if not path.parent.is_dir() or path.is_dir():
    raise OSError(
      f'{path} cannot be written: name a file in a folder that there is.'
    )
  unfinished = path.with_name(path.name + '.unfinished')
  with writing(path):
    unfinished.write_text(text, encoding='utf-8')
    unfinished.replace(path)


def as_json(content: Record) -> Record:
  """An object as JSON gives it back: lists for tuples.

  So that what a run returns or compares is what its files hold.

  Args:
    content: the object.

  Returns:
    The same, of JSON's types alone.
  """
  return json.loads(json.dumps(content))


def write_json(path: pathlib.Path, content: Record) -> None:
  """Writes an object as JSON, in one go.

  Args:
    path: the file.
    content: the object.
  """
  write_text(path, json.dumps(content, indent=1) + '\n')
