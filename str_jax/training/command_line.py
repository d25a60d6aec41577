"""The command that trains with a config."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict


def training(config: ConfigDict, spec: str, given: Mapping[str, Any]) -> str:
  """The command that trains a config.

  Args:
    config: to be trained.
    spec: the file, and the variant after a colon, that it came from.
    given: what the file gives.

  Returns:
    A command line that sets what differs.
  """
  fields = dict(_fields(given))
  changes = [
    f'--config.{name}={_text(value)}'
    for name, value in _fields(config)
    if name in fields and _text(value) != _text(fields[name])
  ]
  return shlex.join(['python', 'main.py', f'--config={spec}', *changes])


def _fields(
  config: Mapping[str, Any], prefix: str = ''
) -> Iterator[tuple[str, Any]]:
  """The fields of a config by their dotted names."""
  for name, value in config.items():
    if isinstance(value, ConfigDict):
      yield from _fields(value, f'{prefix}{name}.')
    else:
      yield prefix + name, value


def _text(value: Any) -> str:
  """A field's value as the command line takes it."""
  if isinstance(value, (list, tuple)):
    return ','.join(json.dumps(x) for x in value)
  return str(value)
