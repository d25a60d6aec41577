"""docs/config.md has every field of a config, and no other."""

import ast
import pathlib
import re

import pytest
from ml_collections import config_dict

from configs import common
from str_jax import data, lowering, methods, models
from str_jax.data import augment
from str_jax.training import schedule

PAGE = pathlib.Path(__file__).parent.parent / 'docs' / 'config.md'
BY_THE_FILE = ('name', 'variant')  # the command line cannot set these


def code(text):
  return re.findall(r'`([^`]+)`', text)


def fields(config, prefix=''):
  """The fields by their dotted names, with their defaults."""
  for name, value in config.items():
    if isinstance(value, config_dict.ConfigDict):
      yield from fields(value, f'{prefix}{name}.')
    elif prefix + name not in BY_THE_FILE:
      yield prefix + name, value


FIELDS = dict(fields(common.get_config()))
TABLES = re.findall(r'^\| (`.+) \|$', PAGE.read_text(encoding='utf-8'), re.M)
ROWS = [row.split(' | ') for row in TABLES]
VALUES = {  # fields that take a name, and the names
  'dataset': data.names(),
  'augment': augment.names(),
  'model.name': models.names(),
  'model.lowering': ('auto', *lowering.NAMES),
  'method.name': methods.names(),
  'method.granularity': ('layer', 'filter', 'weight', 'global'),
  'schedule.name': schedule.NAMES,
  'schedule.hold': schedule.HOLDS,
}


def test_the_page_has_every_field_once_and_no_other():
  named = [name for names, *_ in ROWS for name in code(names)]
  assert sorted(named) == sorted(FIELDS)


@pytest.mark.parametrize('row', ROWS, ids=lambda row: code(row[0])[0])
def test_a_row_has_the_defaults(row):
  names, said, _ = row  # three columns, and no | within them
  wanted = [FIELDS[name] for name in code(names)]
  if None in wanted:  # in words: what comes of it where the field is not set
    assert set(wanted) == {None} and said
  else:
    assert [value_of(text) for text in code(said)] == wanted


def value_of(text):
  """A default as the command line takes it."""
  try:
    return ast.literal_eval(text.capitalize() if text in BOOLS else text)
  except (SyntaxError, ValueError):
    return text


BOOLS = ('true', 'false')


@pytest.mark.parametrize('field', VALUES)
def test_a_row_has_the_names_that_its_field_takes(field):
  (row,) = (row for row in ROWS if field in code(row[0]))
  assert set(VALUES[field]) <= set(code(' '.join(row[1:])))
