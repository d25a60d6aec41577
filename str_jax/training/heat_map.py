"""Budgets side by side: a table of layers by runs, coloured by sparsity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from str_jax.training.html import number
from str_jax.training.runs import Run
from str_jax.training.summaries import finite

# Percent of the full colour. The gap in the middle is where neither the light
# nor the dark text would stand out.
_SHADES = (0, 8, 16, 24, 32, 40, 70, 78, 85, 93, 100)
_DARK = 6  # from this shade on the text is that for a full colour
# What is kept falls a thousandfold from the first shade to the last.
_DECADES = 3


def style() -> str:
  """What a heat map needs beside the pages' style."""
  shades = '\n'.join(
    f'.z{i} {{ background: color-mix(in srgb, var(--zeros) {share}%, '
    'var(--paper));' + (' color: var(--on-zeros);' if i >= _DARK else '') + ' }'
    for i, share in enumerate(_SHADES)
  )
  return f"""
.heat {{ width: auto; border-collapse: separate; border-spacing: 1px; }}
.heat td, .heat th {{ padding: 2px 4px; border: 0; font-size: 12px;
  line-height: 1.35; text-align: right; }}
.heat td {{ min-width: 38px; }}
.heat th:first-child {{ position: sticky; left: 0; padding-right: 8px;
  background: var(--paper); text-align: left; max-width: 190px;
  overflow: hidden; text-overflow: ellipsis; direction: rtl; }}
.heat .next {{ border-left: 6px solid var(--paper); }}
.scale {{ display: flex; flex-wrap: wrap; gap: 1px; margin: 8px 0; }}
.scale span {{ padding: 2px 8px; font-size: 12px; }}
{shades}
"""


def scale() -> str:
  """The colours and what they stand for."""
  marks = (0, 50, 80, 90, 95, 98, 99, 99.9)
  cells = ''.join(
    f'<span class="z{_shade(mark / 100)}">{mark:g}%</span>' for mark in marks
  )
  return f'<p class="scale">{cells}</p>'


def table(shown: Sequence[Run], numbers: Mapping[str, int]) -> str:
  """The sparsity of every layer in every run.

  Args:
    shown: runs of one network, those of the same settings together.
    numbers: of the runs, by name, as the table of runs has them.

  Returns:
    The table: a column a run, a row a layer, the whole net last.
  """
  first = [
    index == 0 or run.settings != shown[index - 1].settings
    for index, run in enumerate(shown)
  ]
  gaps = [' next' if is_first else '' for is_first in first]
  heads = ''.join(
    f'<th scope="col" class="{gap.strip()}" title="{escape(run.name)}">'
    f'{numbers[run.name]}</th>'
    for run, gap in zip(shown, gaps)
  )
  layers = [
    {layer['name']: layer for layer in run.summary['layers']} for run in shown
  ]
  names = dict.fromkeys(name for run in layers for name in run)
  rows = [
    _row(name, shown, [run.get(name) for run in layers], gaps) for name in names
  ]
  whole = _row('whole net', shown, [run.summary for run in shown], gaps)
  return f"""<div class="table" role="region" tabindex="0"
 aria-label="Sparsity of every layer in every run">
<table class="heat">
<thead><tr><th scope="col">Layer</th>{heads}</tr></thead>
<tbody>
{chr(10).join(rows)}
</tbody>
<tfoot>{whole}</tfoot>
</table>
</div>"""


def _row(
  name: str,
  shown: Sequence[Run],
  layers: Sequence[Mapping[str, Any] | None],
  gaps: Sequence[str],
) -> str:
  cells = ''.join(
    _cell(f'{run.name}, {name}', layer, gap)
    for run, layer, gap in zip(shown, layers, gaps)
  )
  said = escape(name)
  return (
    f'<tr><th scope="row" title="{said}"><bdi>{said}</bdi></th>{cells}</tr>'
  )


def _cell(where: str, layer: Mapping[str, Any] | None, gap: str) -> str:
  sparsity = finite(layer and layer['sparsity'])
  if layer is None or math.isnan(sparsity):
    return f'<td class="{gap.strip()}">–</td>'
  said = (
    f'{where}: {sparsity:.2%} zeros, {number(layer["nonzero"])} of '
    f'{number(layer["weights"])} weights kept'
  )
  shown = f'{100 * sparsity:.1f}'
  # A hundred is said only of a layer that is dead.
  shown = '99.9' if shown == '100.0' and layer['nonzero'] else shown
  shown = shown.removesuffix('.0') if sparsity in (0, 1) else shown
  kind = f'z{_shade(sparsity)}{gap}'
  return f'<td class="{kind}" title="{escape(said)}">{shown}</td>'


def _shade(sparsity: float) -> int:
  """The shade of a sparsity, even steps of it in the logarithm of the kept."""
  kept = max(1 - sparsity, 10.0**-_DECADES)
  return round(-math.log10(kept) / _DECADES * (len(_SHADES) - 1))
