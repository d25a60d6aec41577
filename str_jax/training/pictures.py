"""Pictures of a run, as SVG to stand inside a page: bars by layer, and lines
over training.

The pictures take their colours from the page, so that they are right in the
light and in the dark: text and axes are `currentColor`; the data sets are the
CSS variables `--train`, `--validation` and `--test`. A layer has the same
colour in every picture of a run.
"""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib import colors, figure, style, ticker
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

Record = Mapping[str, Any]

# One unit is one pixel at a text size of 11, and a phone is about this wide:
# there the text keeps its size, and on a desk two pictures stand side by side.
WIDTH = 380
INK = '#010203'  # stands for the page's text colour until the SVG is written
KINDS = {'train': '#010204', 'validation': '#010205', 'test': '#010206'}
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


def finite(value: object) -> float:
  """`value` as a float; NaN, which is not drawn, if it is no finite number."""
  if isinstance(value, (int, float)) and math.isfinite(value):
    return float(value)
  return math.nan


def layer_colors(count: int) -> list[str]:
  """One colour a layer, from the first to the last."""
  if count <= len(FEW):
    return list(FEW[:count])
  return [colors.to_hex(DEPTH(i / (count - 1))) for i in range(count)]


def sparsity_by_layer(layers: Sequence[Record]) -> str:
  """Bars: the sparsity of every layer, in the order of the net."""
  percents = [100 * finite(layer['sparsity']) for layer in layers]

  def draw(axes: Axes) -> None:
    _bars(axes, layers, percents)
    _row_texts(axes, percents, percents, '.1f')
    axes.set_xlim(0, 114)
    axes.set_xticks((0, 25, 50, 75, 100))
    axes.xaxis.set_major_formatter(ticker.PercentFormatter(decimals=0))

  return _svg('layer-sparsity', _bars_height(layers), draw)


def flops_by_layer(layers: Sequence[Record]) -> str:
  """Bars: what is left of the FLOPs, before the dense layer's in grey."""
  dense = [finite(layer['dense_flops']) for layer in layers]
  kept = [finite(layer['flops']) for layer in layers]
  shares = [
    some / (all_ or math.nan) for some, all_ in zip(kept, dense, strict=True)
  ]

  def draw(axes: Axes) -> None:
    axes.barh(range(len(layers)), dense, color=INK, alpha=0.16, height=0.72)
    _bars(axes, layers, kept)
    _row_texts(axes, dense, shares, '.0%')
    axes.set_xlim(0, 1.14 * max([1.0, *filter(math.isfinite, dense)]))
    axes.xaxis.set_major_locator(ticker.MaxNLocator(5))
    axes.xaxis.set_major_formatter(ticker.EngFormatter())

  return _svg('layer-flops', _bars_height(layers), draw)


def thresholds(train: Sequence[Record], names: Sequence[str]) -> str:
  """Lines: the threshold of every layer that has one, over training."""

  def draw(axes: Axes) -> None:
    lines = _layer_lines(axes, train, 'layer_threshold', names, linewidth=1.2)
    # Six colours can be told apart; of more, the ends show how they run.
    _legend(axes, lines if len(lines) <= len(FEW) else lines[:: len(lines) - 1])
    axes.set_ylim(bottom=0)
    _steps(axes)

  return _svg('thresholds', 300, draw)


def sparsity(train: Sequence[Record], names: Sequence[str]) -> str:
  """Lines: the sparsity of the net, and thinner of its layers."""

  def draw(axes: Axes) -> None:
    look = {'alpha': 0.6, 'linewidth': 1}
    _layer_lines(axes, train, 'layer_sparsity', names, 100, **look)
    total = [100 * finite(record.get('sparsity')) for record in train]
    whole = {'color': INK, 'linewidth': 2.5, 'label': 'whole net'}
    _legend(axes, [_line(axes, train, total, **whole)])
    axes.set_ylim(-2, 102)
    axes.yaxis.set_major_formatter(ticker.PercentFormatter(decimals=0))
    _steps(axes)

  return _svg('sparsity', 300, draw)


def loss(kinds: Mapping[str, Sequence[Record]]) -> str:
  """Lines: the loss on each data set of `KINDS`, over training."""

  def draw(axes: Axes) -> None:
    _kind_lines(axes, kinds, 'loss')
    _steps(axes)

  return _svg('loss', 270, draw)


def accuracy(kinds: Mapping[str, Sequence[Record]]) -> str:
  """Lines: the accuracy on each data set of `KINDS`, over training."""

  def draw(axes: Axes) -> None:
    _kind_lines(axes, kinds, 'accuracy', 100)
    axes.yaxis.set_major_formatter(ticker.PercentFormatter())
    _steps(axes)

  return _svg('accuracy', 270, draw)


def _bars_height(layers: Sequence[Record]) -> float:
  return 40 + len(layers) * (16 if len(layers) > 12 else 24)


def _bars(
  axes: Axes, layers: Sequence[Record], widths: Sequence[float]
) -> None:
  """One bar a layer, the first on top, with the layers' names."""
  count = len(layers)
  axes.barh(range(count), widths, color=layer_colors(count), height=0.72)
  axes.set_yticks(range(count), [_brief(layer['name']) for layer in layers])
  axes.set_ylim(count - 0.4, -0.6)
  axes.tick_params(axis='y', length=0)
  axes.spines['left'].set_visible(False)
  axes.grid(axis='x')
  axes.set_axisbelow(True)


def _row_texts(
  axes: Axes, ends: Sequence[float], values: Sequence[float], form: str
) -> None:
  """The value of every bar, in writing at the bar's end."""
  for row, (end, value) in enumerate(zip(ends, values, strict=True)):
    known = math.isfinite(end) and math.isfinite(value)
    axes.annotate(
      format(value, form) if known else 'unknown',
      (end if known else 0.0, row),
      (3, 0),
      textcoords='offset points',
      verticalalignment='center_baseline',
      fontsize=9,
    )


def _line(
  axes: Axes, records: Sequence[Record], values: Sequence[float], **look: Any
) -> Line2D:
  """A line over the steps; with few points these are drawn as well."""
  few = sum(map(math.isfinite, values)) <= 20
  steps = [finite(record.get('step')) for record in records]
  look = {'marker': 'o' if few else None, 'markersize': 3, **look}
  return axes.plot(steps, values, **look)[0]


def _layer_lines(
  axes: Axes,
  train: Sequence[Record],
  key: str,
  names: Sequence[str],
  scale: float = 1,
  **look: Any,
) -> list[Line2D]:
  """One line for each layer that `key` holds, in the order of the net."""
  lines = []
  for name, color in zip(names, layer_colors(len(names)), strict=True):
    values = [scale * finite(r.get(key, {}).get(name)) for r in train]
    if any(map(math.isfinite, values)):
      look = {**look, 'color': color, 'label': _brief(name)}
      lines.append(_line(axes, train, values, **look))
  return lines


def _kind_lines(
  axes: Axes,
  kinds: Mapping[str, Sequence[Record]],
  key: str,
  scale: float = 1,
) -> None:
  lines = []
  for kind, color in KINDS.items():
    if records := kinds.get(kind):
      values = [scale * finite(record.get(key)) for record in records]
      lines.append(_line(axes, records, values, color=color, label=kind))
  _legend(axes, lines)


def _legend(axes: Axes, lines: Sequence[Line2D]) -> None:
  """The names of `lines` above the picture, where they hide no line."""
  labels = [str(line.get_label()) for line in lines]
  columns = 2 if max(map(len, labels), default=0) > 12 else 3
  axes.figure.legend(lines, labels, loc='outside upper left', ncols=columns)


def _brief(name: object) -> str:
  # A name's end tells it from its neighbours; the table has it whole.
  name = str(name)
  return name if len(name) <= 26 else f'…{name[-25:]}'


def _steps(axes: Axes) -> None:
  axes.set_xlabel('step')
  axes.set_xlim(left=0)
  axes.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
  axes.xaxis.set_major_formatter(ticker.StrMethodFormatter('{x:,.0f}'))
  axes.grid()


def _svg(name: str, height: float, draw: Callable[[Axes], None]) -> str:
  """The picture as an `<svg>` element: no size, no date, ids after `name`."""
  with style.context(['default', STYLE | {'svg.hashsalt': name}]):
    picture = figure.Figure((WIDTH / 72, height / 72), layout='constrained')
    draw(picture.subplots())
    out = io.StringIO()
    nothing = dict.fromkeys(('Creator', 'Date', 'Format', 'Type'))
    picture.savefig(out, format='svg', metadata=nothing)
  svg = out.getvalue()
  svg = svg[svg.index('<svg') :].strip()
  # Its style sheet would hold for the whole page, which has its own.
  svg = re.sub(r'<defs>\s*<style.*?</style>\s*</defs>', '', svg, flags=re.S)
  # The page gives the size and the typeface.
  svg = re.sub(r' (width|height)="[\d.]+pt"', '', svg, count=2)
  svg = re.sub(r' font-family: [^;"]*;', '', svg)
  svg = re.sub(r'( id="|href="#|url\(#)', rf'\g<1>{name}-', svg)
  svg = svg.replace(INK, 'currentColor')
  for kind, color in KINDS.items():
    svg = svg.replace(color, f'var(--{kind})')
  return svg
