"""What the site's build does beside its plugins: notebooks, and formulas."""

import html
import logging
import os
import pathlib
import re
from typing import Any

import nbconvert
from latex2mathml import converter
from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
_FORMULA = re.compile(
  r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL
)
_NOTEBOOK = re.compile(r'\]\(\.\./notebooks/(\w+)\.ipynb\)')
_FOREIGN = re.compile(r':(?:class|data|func|math|meth|mod):|\.\. [a-z]+::')
_LOG = logging.getLogger('mkdocs.hooks')


def on_files(files: Files, config: Any) -> Files:
  """Adds the notebooks: those of the folder NOTEBOOKS, else as they stand.

  They become Markdown, with their outputs, so that they look and are searched
  as every other page.
  """
  folder = pathlib.Path(os.environ.get('NOTEBOOKS') or ROOT / 'notebooks')
  # What was printed line by line is one block.
  joined = {'CoalesceStreamsPreprocessor': {'enabled': True}}
  exporter = nbconvert.MarkdownExporter(config=joined)
  for path in sorted(folder.glob('*.ipynb')):
    names = {'unique_key': path.stem, 'output_files_dir': f'{path.stem}_files'}
    text, resources = exporter.from_filename(str(path), resources=names)
    made = {f'{path.stem}.md': text, **resources['outputs']}
    for name, content in made.items():
      files.append(File.generated(config, f'notebooks/{name}', content=content))
  return files


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
  """Turns links to notebooks in the repository into links to their pages."""
  del kwargs
  return _NOTEBOOK.sub(r'](notebooks/\1.md)', markdown)


def on_page_content(content: str, page: Any, **kwargs: Any) -> str:
  """Puts MathML in the place of every formula."""
  del kwargs
  for left in _FOREIGN.findall(content):  # a warning ends a --strict build
    _LOG.warning('%s: %s is no Markdown', page.file.src_uri, left)

  def mathml(found: re.Match[str]) -> str:
    display = 'block' if found[1] == 'div' else 'inline'
    return converter.convert(html.unescape(found[2]), display=display)

  return _FORMULA.sub(mathml, content)
