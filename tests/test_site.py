"""The documentation site names what is there; mkdocs itself builds it in CI."""

import pathlib

import pytest
import yaml

import str_jax

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = ROOT / 'docs'
SITE = yaml.safe_load((ROOT / 'mkdocs.yml').read_text(encoding='utf-8'))
MODULES = sorted(
  n for n in str_jax.__all__ if not callable(getattr(str_jax, n))
)


def pages(nav):
  for entry in nav:
    for place in entry.values():
      yield from [place] if isinstance(place, str) else pages(place)


NAV = list(pages(SITE['nav']))


def source(page):
  if page.startswith('notebooks/'):  # see docs/site/hooks.py
    return ROOT / pathlib.Path(page).with_suffix('.ipynb')
  return DOCS / page


def test_every_entry_of_the_navigation_is_there():
  assert [page for page in NAV if not source(page).exists()] == []
  assert len(NAV) == len(set(NAV))


def test_every_page_is_in_the_navigation():
  written = {str(path.relative_to(DOCS)) for path in DOCS.rglob('*.md')}
  notebooks = {
    f'notebooks/{path.stem}.md' for path in (ROOT / 'notebooks').glob('*.ipynb')
  }
  assert written | notebooks <= set(NAV)


@pytest.mark.parametrize('module', MODULES)
def test_every_public_module_has_its_page(module):
  page = f'reference/{module}.md'
  assert page in NAV
  lines = (DOCS / page).read_text(encoding='utf-8').splitlines()
  assert f'::: str_jax.{module}' in lines


def test_every_public_name_is_in_the_index():
  text = (DOCS / 'reference' / 'index.md').read_text(encoding='utf-8')
  functions = set(str_jax.__all__) - set(MODULES)
  assert [name for name in functions if f'`str_jax.{name}`' not in text] == []
  assert [name for name in MODULES if f'[{name}]({name}.md)' not in text] == []


def test_the_build_finds_its_hooks_and_style():
  options = SITE['plugins'][1]['mkdocstrings']['handlers']['python']['options']
  for path in SITE['hooks'] + options['extensions']:
    assert (ROOT / path).is_file()
  for path in SITE['extra_css']:
    assert (DOCS / path).is_file()
