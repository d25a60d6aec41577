"""What all pictures share: their look, the lines of layers, and SVG that
stands inside a page.

The pictures take their colours from the page, so that they are right in the
light and in the dark: text and axes are `currentColor`; the data sets are the
CSS variables `--train`, `--validation` and `--test`, and the methods of several
runs `--series1` and so on. A layer has the same colour in every picture.
"""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from matplotlib import colors, figure, style, ticker
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from str_jax.training.summaries import finite

Record = Mapping[str, Any]

# One unit is one pixel at a text size of 11, and a phone is about this wide:
# there the text keeps its size, and on a desk two pictures stand side by side.
WIDTH = 380
# These stand for colours of the page until the SVG is written.
INK = '#010203'
KINDS = {'train': '#010204', 'validation': '#010205', 'test': '#010206'}
SERIES = {f'series{i}': f'#01021{i}' for i in range(1, 6)}
STYLE = {
  'axes.edgecolor': INK,
  'axes.facecolor': 'none',
  'axes.labelcolor': INK,
  'axes.linewidth': 0.6,
  'axes.spines.right': False,
  'axes.spines.top': False,
  'figure.facecolor': 'none',
  'font.size': 11,
  'grid.alpha': 0.15,
  'grid.color': INK,
  'legend.fontsize': 10,
  'legend.frameon': False,
  'lines.linewidth': 1.5,
  'savefig.facecolor': 'none',
  'svg.fonttype': 'none',
  'text.color': INK,
  'text.parse_math': False,
  'xtick.color': INK,
  'xtick.labelsize': 10,
  'ytick.color': INK,
  'ytick.labelsize': 10,
}
# Okabe and Ito's colours, without the yellow and the black that vanish on
# white and on black. More layers than that run from blue to orange by depth.
FEW = ('#0072b2', '#e69f00', '#009e73', '#cc79a7', '#56b4e9', '#d55e00')
DEPTH = colors.LinearSegmentedColormap.from_list(
  'depth', ('#3581cf', '#a06db4', '#e07b22')
)


def layer_colors(count: int) -> list[str]:
  """One colour a layer, from the first to the last."""
  if count <= len(FEW):
    return list(FEW[:count])
  return [colors.to_hex(DEPTH(i / (count - 1))) for i in range(count)]


def thinned(
  records: Sequence[Record], most: int
) -> tuple[int, Sequence[Record]]:
  """At most so many records, the last among them: one in how many, and which.

  >>> thinned([{'step': step} for step in range(1, 6)], 3)
  (2, [{'step': 1}, {'step': 3}, {'step': 5}])
  """
  stride = max(1, math.ceil(len(records) / most))
  return stride, records[::-stride][::-1]


def line(
  axes: Axes, records: Sequence[Record], values: Sequence[float], **look: Any
) -> Line2D:
  """A line over the steps; with few points these are drawn as well."""
  few = sum(map(math.isfinite, values)) <= 20
  steps = [finite(record.get('step')) for record in records]
  look = {'marker': 'o' if few else None, 'markersize': 3, **look}
  return axes.plot(steps, values, **look)[0]


def legend(axes: Axes, lines: Sequence[Line2D]) -> None:
  """The names of `lines` above the picture, where they hide no line."""
  labels = [str(line.get_label()) for line in lines]
  columns = legend_columns(labels)
  axes.figure.legend(lines, labels, loc='outside upper left', ncols=columns)


def legend_columns(labels: Sequence[str]) -> int:
  """In how many columns names fit above a picture."""
  longest = max(map(len, labels), default=0)
  return 1 + (longest <= 26) + (longest <= 12)


def brief(name: object) -> str:
  # A name's end tells it from its neighbours; the table has it whole.
  name = str(name)
  return name if len(name) <= 26 else f'…{name[-25:]}'


def over_steps(axes: Axes) -> None:
  axes.set_xlabel('step')
  axes.set_xlim(left=0)
  axes.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
  axes.xaxis.set_major_formatter(ticker.StrMethodFormatter('{x:,.0f}'))
  axes.grid()


def svg(
  name: str,
  height: float,
  draw: Callable[[Axes], None],
  width: float = WIDTH,
  titles: Mapping[str, str] | None = None,
) -> str:
  """The picture as an `<svg>` element: no size, no date, ids after `name`.

  Args:
    name: of the picture, its own on the page.
    height: in units.
    draw: draws into the axes.
    width: in units.
    titles: from the gid of something drawn to what is said where one points.

  Returns:
    The element.
  """
  with style.context(['default', STYLE | {'svg.hashsalt': name}]):
    picture = figure.Figure((width / 72, height / 72), layout='constrained')
    draw(picture.subplots())
    out = io.StringIO()
    nothing = dict.fromkeys(('Creator', 'Date', 'Format', 'Type'))
    picture.savefig(out, format='svg', metadata=nothing)
  text = out.getvalue()
  text = text[text.index('<svg') :].strip()
  # Its style sheet would hold for the whole page, which has its own.
  text = re.sub(r'<defs>\s*<style.*?</style>\s*</defs>', '', text, flags=re.S)
  # The page gives the size and the typeface.
  text = re.sub(r' (width|height)="[\d.]+pt"', '', text, count=2)
  text = re.sub(r' font-family: [^;"]*;', '', text)
  text = re.sub(r'( id="|href="#|url\(#)', rf'\g<1>{name}-', text)
  for gid, title in (titles or {}).items():
    group = f'<g id="{name}-{gid}">'
    text = text.replace(group, f'{group}<title>{escape(title)}</title>', 1)
  text = text.replace(INK, 'currentColor')
  for kind, color in (KINDS | SERIES).items():
    text = text.replace(color, f'var(--{kind})')
  return text
