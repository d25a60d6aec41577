"""Docstrings as Markdown: they hold formulas, references and doctests as
Sphinx writes them.
"""

import re
from typing import Any

import griffe

_REFERENCE = re.compile(r':(?:class|data|func|meth|mod):`([\w.]+)`')
_INLINE = re.compile(r':math:`([^`]+)`')
_DISPLAY = re.compile(r'^\.\. math::(.*(?:\n(?: +\S.*|(?=\n +\S)))*)', re.M)
_DOCTEST = re.compile(r'^>>> .*(?:\n.*\S.*)*', re.M)


def markdown(text: str, module: str) -> str:
  """A docstring's text as Markdown.

  Args:
    text: without its indentation.
    module: of the object, in which short names are looked up.

  Returns:
    The same with formulas between `\\[` and `\\]` or `\\(` and `\\)`, links in
    place of references, and doctests as blocks of code.
  """

  def link(found: re.Match[str]) -> str:
    name = found[1]
    known = name if name.startswith('str_jax') else f'{module}.{name}'
    return (
      f'<autoref identifier="{known}" optional><code>{name}</code></autoref>'
    )

  def display(found: re.Match[str]) -> str:
    return f'\\[{" ".join(found[1].split())}\\]'

  text = _DISPLAY.sub(display, text)
  text = _INLINE.sub(lambda found: f'\\({" ".join(found[1].split())}\\)', text)
  text = _DOCTEST.sub(lambda found: f'```pycon\n{found[0]}\n```', text)
  return _REFERENCE.sub(link, text)


class Docstrings(griffe.Extension):
  """Rewrites every docstring as it is read."""

  def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
    del kwargs
    if obj.docstring:
      module = obj if obj.is_module else obj.module
      obj.docstring.value = markdown(obj.docstring.value, module.path)
