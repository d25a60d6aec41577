"""What to do about fields that are refused: whether a variant sets them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from str_jax.training import fields, flags


@contextlib.contextmanager
def told(spec: str, changes: Mapping[str, Any]) -> Iterator[None]:
  """Says of fields that are refused if it is the file that sets them.

  Args:
    spec: a config file, and a variant of it after a colon.
    changes: what the command line sets.

  Raises:
    ValueError: with what to do about the file's.
  """
  try:
    yield
  except fields.Unwanted as error:
    theirs = [name for name in error.names if name not in changes]
    if not theirs:
      raise
    path, _, variant = spec.partition(':')
    variant = variant or flags.load_config(path)[0].variant
    others = _without(path, theirs, changes)
    raise ValueError(
      f'{error} The variant {variant} of {path} sets {", ".join(theirs)}: '
      f'{f"start from {others[0]}, or " if others else ""}set it to None, by '
      f'{" ".join(f"--config.{name}=None" for name in theirs)}.'
    ) from error


def _without(
  path: str, names: Sequence[str], changes: Mapping[str, Any]
) -> list[str]:
  """Variants of a file that do not set some fields, the likeliest first."""
  found = []
  for variant in (changes.get('method.name'), 'dense'):
    spec = f'{path}:{variant or "dense"}'
    try:
      config, _ = flags.load_config(spec)
    except ValueError:
      continue
    if all(_value(config, name) is None for name in names):
      found.append(spec)
  return found


def _value(config: Any, name: str) -> Any:
  """The value of a dotted field."""
  for part in name.split('.'):
    config = config[part]
  return config
