"""What the documents name is there."""

import pathlib
import re
import shlex

import documents
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCUMENTS = sorted((ROOT / 'docs').glob('*.md'))
FIDELITY = (ROOT / 'docs' / 'fidelity.md').read_text(encoding='utf-8')
NAMED_TESTS = sorted(set(re.findall(r'`(tests/[\w/]+\.py)::(\w+)`', FIDELITY)))


@pytest.mark.parametrize('document', DOCUMENTS, ids=lambda path: path.name)
def test_every_path_exists(document):
  text = document.read_text(encoding='utf-8')
  named = re.findall(
    r'`((?:str_jax|configs|tests|benchmarks)/[\w/.]+?)(?:::\w+)?`', text
  )
  assert named
  assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize(
  'document', [documents.ROOT / 'README.md', *DOCUMENTS], ids=lambda p: p.name
)
def test_every_command_within_the_text_is_taken(document):
  for command in documents.inline_commands(document.read_text('utf-8')):
    documents.check(tuple(shlex.split(command)))


@pytest.mark.parametrize(('file', 'test'), NAMED_TESTS)
def test_every_test_that_fidelity_names_exists(file, test):
  source = (ROOT / file).read_text(encoding='utf-8')
  assert re.search(rf'^def {test}\(', source, re.MULTILINE)
