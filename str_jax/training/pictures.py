"""Pictures of a run, as SVG to stand inside a page: bars by layer, and lines
over training.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from str_jax.training.drawing import (
  FEW,
  INK,
  KINDS,
  Record,
  brief,
  finite,
  layer_colors,
  legend,
  line,
  over_steps,
  svg,
)


def sparsity_by_layer(layers: Sequence[Record]) -> str:
  """Bars: the sparsity of every layer, in the order of the net."""
  percents = [100 * finite(layer['sparsity']) for layer in layers]

  def draw(axes: Axes) -> None:
    _bars(axes, layers, percents)
    _row_texts(axes, percents, percents, '.1f')
    axes.set_xlim(0, 114)
    axes.set_xticks((0, 25, 50, 75, 100))
    axes.xaxis.set_major_formatter(ticker.PercentFormatter(decimals=0))

  return svg('layer-sparsity', _bars_height(layers), draw)


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

  return svg('layer-flops', _bars_height(layers), draw)


def thresholds(train: Sequence[Record], names: Sequence[str]) -> str:
  """Lines: the threshold of every layer that has one, over training."""

  def draw(axes: Axes) -> None:
    lines = layer_lines(axes, train, 'layer_threshold', names, linewidth=1.2)
    # Six colours can be told apart; of more, the ends show how they run.
    legend(axes, lines if len(lines) <= len(FEW) else lines[:: len(lines) - 1])
    axes.set_ylim(bottom=0)
    over_steps(axes)

  return svg('thresholds', 300, draw)


def sparsity(train: Sequence[Record], names: Sequence[str]) -> str:
  """Lines: the sparsity of the net, and thinner of its layers."""

  def draw(axes: Axes) -> None:
    look = {'alpha': 0.6, 'linewidth': 1}
    layer_lines(axes, train, 'layer_sparsity', names, 100, **look)
    total = [100 * finite(record.get('sparsity')) for record in train]
    whole = {'color': INK, 'linewidth': 2.5, 'label': 'whole net'}
    legend(axes, [line(axes, train, total, **whole)])
    axes.set_ylim(-2, 102)
    axes.yaxis.set_major_formatter(ticker.PercentFormatter(decimals=0))
    over_steps(axes)

  return svg('sparsity', 300, draw)


def loss(kinds: Mapping[str, Sequence[Record]]) -> str:
  """Lines: the loss on each data set of `KINDS`, over training."""

  def draw(axes: Axes) -> None:
    _kind_lines(axes, kinds, 'loss')
    over_steps(axes)

  return svg('loss', 270, draw)


def accuracy(kinds: Mapping[str, Sequence[Record]]) -> str:
  """Lines: the accuracy on each data set of `KINDS`, over training."""

  def draw(axes: Axes) -> None:
    _kind_lines(axes, kinds, 'accuracy', 100)
    axes.yaxis.set_major_formatter(ticker.PercentFormatter())
    over_steps(axes)

  return svg('accuracy', 270, draw)


def _bars_height(layers: Sequence[Record]) -> float:
  return 40 + len(layers) * (16 if len(layers) > 12 else 24)


def _bars(
  axes: Axes, layers: Sequence[Record], widths: Sequence[float]
) -> None:
  """One bar a layer, the first on top, with the layers' names."""
  count = len(layers)
  axes.barh(range(count), widths, color=layer_colors(count), height=0.72)
  axes.set_yticks(range(count), [brief(layer['name']) for layer in layers])
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


def layer_lines(
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
      look = {**look, 'color': color, 'label': brief(name)}
      lines.append(line(axes, train, values, **look))
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
      lines.append(line(axes, records, values, color=color, label=kind))
  legend(axes, lines)
