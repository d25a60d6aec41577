"""The two files that a finished run leaves for reports, read and checked."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from str_jax.training import records
from str_jax.training.records import Record


def finite(value: Any) -> float:
  """`value` as a float; NaN, which is not drawn, if it is no finite number."""
  known = _is_number(value) and math.isfinite(value)
  return float(value) if known else math.nan


def _is_number(value: Any) -> bool:
  if isinstance(value, bool) or not isinstance(value, (int, float)):
    return False
  return isinstance(value, float) or abs(value) < 2**63


def _or_null(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
  return lambda value: value is None or check(value)


_KINDS: Mapping[str, Callable[[Any], bool]] = {
  'text': lambda value: isinstance(value, str),
  'text or null': _or_null(lambda value: isinstance(value, str)),
  'a number': _is_number,
  'a number or null': _or_null(_is_number),
  'a number other than 0': lambda value: _is_number(value) and value != 0,
  'a whole number above 0': lambda v: type(v) is int and 0 < v < 2**63,
  'a whole number': lambda value: type(value) is int and abs(value) < 2**63,
  'a list of whole numbers': lambda value: (
    isinstance(value, list) and all(type(size) is int for size in value)
  ),
  'an object': lambda value: isinstance(value, dict),
}
_SUMMARY = {
  'model': 'text',
  'dataset': 'text',
  'method': 'text',
  'note': 'text or null',
  'command': 'text',
  'config': 'an object',
  'versions': 'an object',
  'device': 'text',
  'steps': 'a whole number',
  'top1': 'a number or null',
  'best_top1': 'a number or null',
  'best_step': 'a number or null',
  'eval_loss': 'a number or null',
  'sparsity': 'a number',
  'weights': 'a whole number above 0',
  'nonzero': 'a whole number',
  'dense_flops': 'a number other than 0',
  'flops': 'a number',
  'seconds': 'a number',
  'examples_per_second': 'a number or null',
}
_LAYER = {
  'name': 'text',
  'shape': 'a list of whole numbers',
  'weights': 'a whole number above 0',
  'nonzero': 'a whole number',
  'sparsity': 'a number',
  'threshold': 'a number or null',
  'dense_flops': 'a number or null',
  'flops': 'a number or null',
}
_ROUND = {
  'sparsity': 'a number',
  'nonzero': 'a whole number',
  'top1': 'a number',
  'best_top1': 'a number or null',
  'seconds': 'a number',
}
_TARGET = {
  'name': 'text',
  'value': 'a number',
  'kept': 'a number',
  'limit': 'a number',
  'unit': 'text',
  'tied': 'a number',
}


def read(folder: pathlib.Path) -> tuple[Record, list[Record]]:
  """What a finished run left, every field of the kind that reports take.

  Args:
    folder: of the run. A last line of `metrics.jsonl` that a kill cut short is
      left out.

  Returns:
    The content of `summary.json` and the records of `metrics.jsonl`.

  Raises:
    FileNotFoundError: there is no summary.json.
    ValueError: a field is missing or of another kind, or a file is damaged.
  """
  return summary(folder), _metrics(folder / 'metrics.jsonl')


def summary(folder: pathlib.Path) -> Record:
  """The content of a finished run's `summary.json`, checked.

  Args:
    folder: of the run.

  Returns:
    The content.

  Raises:
    FileNotFoundError: there is none.
    ValueError: a field is missing or of another kind, or the file is damaged.
  """
  path = folder / 'summary.json'
  if not path.is_file() and (folder / 'config.json').is_file():
    raise FileNotFoundError(
      f'{folder} holds a run that is not finished: give the training command '
      'again, which goes on with it.'
    )
  content = records.read_json(path)
  _check(content, _SUMMARY, str(path))
  for name, kinds in (('layers', _LAYER), ('rounds', _ROUND)):
    rows = content.get(name, [] if name == 'rounds' else None)
    if not isinstance(rows, list):
      raise ValueError(_wrong(str(path), name, 'a list', rows))
    for number, row in enumerate(rows):
      where = f'{name}[{number}]'
      if not isinstance(row, dict):
        raise ValueError(_wrong(str(path), where, 'an object', row))
      _check(row, kinds, str(path), where + '.')
  target = content.get('target')
  if target is not None:
    if not isinstance(target, dict):
      raise ValueError(_wrong(str(path), 'target', 'an object', target))
    _check(target, _TARGET, str(path), 'target.')
  return content


def _metrics(path: pathlib.Path) -> list[Record]:
  """The records that reports draw: of training, and of an evaluation."""
  found = records.read_lines(path)
  for number, record in enumerate(found, start=1):
    where = f'record {number} of {path}'
    if not isinstance(record.get('kind'), str):
      continue  # another program's: no report draws it
    _check(record, {'step': 'a number'}, where)
    for name in ('layer_sparsity', 'layer_threshold'):
      if not isinstance(values := record.get(name, {}), dict):
        raise ValueError(_wrong(where, name, 'an object', values))
  return found


def _check(
  content: Record, kinds: Mapping[str, str], where: str, prefix: str = ''
) -> None:
  for name, kind in kinds.items():
    if name not in content:
      raise ValueError(
        f"{where} lacks '{prefix}{name}': run the training again with this "
        'version, which writes it.'
      )
    if not _KINDS[kind](content[name]):
      raise ValueError(_wrong(where, prefix + name, kind, content[name]))


def _wrong(where: str, name: str, kind: str, value: object) -> str:
  shown = repr(value)
  shown = shown if len(shown) <= 40 else f'{shown[:40]}...'
  return (
    f'{name} in {where} should be {kind}, got {shown}: restore the file, or '
    'train into another --workdir.'
  )
