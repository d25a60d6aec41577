"""What the pages of one run and of several share: a frame, numbers, tables.

A page is one file: its style stands in it, its pictures are inline SVG, and a
browser is told to load nothing else.
"""

import math
from collections.abc import Iterable, Sequence
from html import escape

from str_jax.training.summaries import finite

UNKNOWN = '–'
CSS = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2126;
  --quiet: #59646e; --rule: #d9dfe4; --card: #f4f6f8;
  --train: #0072b2; --validation: #d55e00; --test: #008a66;
  --zeros: #0a3f7d; --on-zeros: #fff;
  --series1: #0072b2; --series2: #d55e00; --series3: #00a878;
  --series4: #c76fa5; --series5: #5c4a00; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171a;
  --ink: #e4e8eb; --quiet: #a0abb5; --rule: #333b42; --card: #1e2328;
  --train: #56b4e9; --validation: #e69f00; --test: #2cc29a;
  --zeros: #9ad0ff; --on-zeros: #10151a;
  --series1: #56b4e9; --series2: #e8743b; --series3: #1fae86;
  --series4: #f0b6e0; --series5: #f0e27a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
main { max-width: 1120px; margin: auto; padding: 24px 16px 48px; }
h1 { margin: 0; line-height: 1.2; }
h2 { margin: 40px 0 12px; padding-top: 12px; font-size: 1.25em;
  border-top: 1px solid var(--rule); }
p, figure { margin: 8px 0; }
.quiet, figcaption, dt, dd { color: var(--quiet); }
.note, pre, dl div { padding: 10px 14px; background: var(--card);
  border-radius: 6px; }
.note { white-space: pre-line; }
code, ul { font: 15px/1.5 ui-monospace, monospace; }
pre, .table { overflow-x: auto; overflow-wrap: normal; }
dl { display: grid; gap: 12px; margin: 16px 0;
  grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); }
dl div, figcaption, table { font-size: 0.9em; }
dd { margin: 0; }
dd:nth-of-type(1) { color: var(--ink); font: 600 2.2em/1.3 system-ui; }
.figures { display: grid; gap: 20px 36px; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); }
figure { min-width: 0; }
.small { gap: 16px 20px; grid-template-columns:
  repeat(auto-fill, minmax(min(100%, 165px), 1fr)); }
figcaption b { color: var(--ink); }
svg { display: block; width: 100%; height: auto; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
table { border-collapse: collapse; width: 100%; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
th, td { padding: 4px 10px; border-bottom: 1px solid var(--rule);
  text-align: right; }
th:first-child { padding-left: 0; text-align: left; }
tbody th { font-weight: 400; }
tfoot, tr.mean, tr.mean th { font-weight: 600; }
.left :is(th, td):is(:nth-child(2), :last-child) { text-align: left; }
ul { margin: 0; padding-left: 20px; list-style: none; }
main > ul { padding: 0; columns: 3 300px; }
main > ul > li { break-inside: avoid; }
"""


def page(title: str, body: str, style: str = '') -> str:
  """A page, whole.

  Args:
    title: of the page, as plain text.
    body: what stands under it, as HTML.
    style: what this page needs beside `CSS`.

  Returns:
    The page's text, which is also XML.
  """
  return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<title>{escape(title)}</title>
<style>{CSS}{style}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
{body}
</main>
</body>
</html>
"""


def figures(shown: Iterable[tuple[str, str, str]], kind: str = '') -> str:
  """Pictures in a grid.

  Args:
    shown: of each picture its title and a sentence, as HTML, and its SVG.
    kind: 'small' for small multiples.

  Returns:
    The grid.
  """
  inner = '\n'.join(
    f'<figure>\n<figcaption><b>{title}.</b> {said}</figcaption>\n'
    + svg.replace('<svg ', f'<svg role="img" aria-label="{title}. {said}" ', 1)
    + '\n</figure>'
    for title, said, svg in shown
  )
  return f'<div class="{f"figures {kind}".strip()}">\n{inner}\n</div>'


def table(
  label: str,
  heads: Sequence[str],
  body: str,
  foot: str = '',
  kind: str = '',
) -> str:
  """A table that scrolls by itself where it is wider than the page.

  Args:
    label: what it is, for those who do not see it.
    heads: of its columns.
    body: its rows, as HTML.
    foot: its last row, as HTML.
    kind: 'left' for text in the second and the last column.

  Returns:
    The table.
  """
  columns = ''.join(f'<th scope="col">{escape(head)}</th>' for head in heads)
  if foot:
    foot = f'\n<tfoot>{foot}</tfoot>'
  return f"""<div class="table" role="region" tabindex="0"
 aria-label="{escape(label)}">
<table{f' class="{kind}"' if kind else ''}>
<thead><tr>{columns}</tr></thead>
<tbody>
{body}
</tbody>{foot}
</table>
</div>"""


def row(head: str, cells: Iterable[str], kind: str = '') -> str:
  """A row of a table, its first cell the row's name; all as plain text."""
  values = ''.join(f'<td>{escape(cell)}</td>' for cell in cells)
  start = f'<tr class="{kind}">' if kind else '<tr>'
  return f'{start}<th scope="row">{escape(head)}</th>{values}</tr>'


def number(value: object, form: str = ',.0f') -> str:
  """A number in a format; a dash for what is none."""
  known = finite(value)
  return UNKNOWN if math.isnan(known) else format(known, form)


def percent(part: object, whole: object = 1) -> str:
  """A share in percent; a dash where it is not known."""
  return number(finite(part) / (finite(whole) or math.nan), '.2%')


def short(value: object) -> str:
  """A large count in three digits.

  >>> short(4089184256), short(123456), short(7)
  ('4.09 G', '123 k', '7')
  """
  known = finite(value)
  for size, unit in ((1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
    if known >= size:
      return f'{known / size:.3g} {unit}'
  return number(known)


def duration(seconds: object) -> str:
  """A time in the unit that suits it.

  >>> duration(7300), duration(21.34)
  ('2.0 hours', '21.3 seconds')
  """
  known = finite(seconds)
  for size, unit in ((86400, 'days'), (3600, 'hours'), (60, 'minutes')):
    if known >= 2 * size:
      return f'{known / size:.1f} {unit}'
  return f'{number(known, ".3g")} seconds'
