"""Pictures of several runs: accuracy against what is kept, and thresholds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from str_jax.training import pictures, runs
from str_jax.training.drawing import (
  INK,
  SERIES,
  finite,
  legend,
  legend_columns,
  over_steps,
  svg,
  thinned,
)
from str_jax.training.published import Point
from str_jax.training.runs import Run

_MARKERS = 'sD^vPo'
_HOLLOW = 'osD^v<>*PXp'
# Sparsities that are marked: what is kept halves or so from one to the next.
_SPARSITIES = (0, 50, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.99)
_SMALL = 180, 132
_SMALL_POINTS = 80


def accuracy(
  against: str, shown: Sequence[Run], reference: Sequence[Point], name: str
) -> str:
  """Points: test accuracy against sparsity or FLOPs, the runs of one method
  joined.

  Args:
    against: 'sparsity' or 'flops'.
    shown: runs on one data set.
    reference: published points.
    name: of the picture, its own on the page.

  Returns:
    The picture.
  """
  shown = [run for run in shown if math.isfinite(finite(run.summary['top1']))]
  titles: dict[str, str] = {}
  series = _series(shown)
  published: dict[str, list[Point]] = {}
  # A method's marker is the same in both pictures, of which one may lack it.
  methods = dict.fromkeys(point.method for point in reference)
  markers = dict(zip(methods, itertools.cycle(_HOLLOW)))
  for point in reference:
    if math.isfinite(point.kept(against)):
      published.setdefault(point.method, []).append(point)
  kept = [_kept(run, against) for run in shown]
  kept += [point.kept(against) for point in reference]

  def draw(axes: Axes) -> None:
    lines = [
      _reference(axes, points, against, markers[method], titles)
      for method, points in published.items()
    ]
    axes.set_xscale('log')
    ours = []
    colored = [label for label in series if label != 'dense']
    for label, groups in series.items():
      index = None if label == 'dense' else colored.index(label)
      look = _look(index) | {'label': label}
      ours.append(_joined(axes, groups, against, look, titles))
    legend(axes, ours + lines)
    axes.yaxis.set_major_formatter(ticker.PercentFormatter())
    axes.set_ylabel('test accuracy')
    axes.grid()
    _kept_axis(axes, against, [x for x in kept if x > 0])

  labels = [*series, *map(_label, published)]
  rows = math.ceil(len(labels) / legend_columns(labels))
  return svg(name, (350 if reference else 290) + 15 * rows, draw, titles=titles)


def thresholds(run: Run, name: str) -> str:
  """Lines, small: the threshold of every layer of a run over training.

  Args:
    run: with thresholds in its metrics.
    name: of the picture, its own on the page.

  Returns:
    The picture.
  """
  _, train = thinned(
    [record for record in run.metrics if record.get('kind') == 'train'],
    _SMALL_POINTS,
  )
  layers = [layer['name'] for layer in run.summary['layers']]

  def draw(axes: Axes) -> None:
    pictures.layer_lines(axes, train, 'layer_threshold', layers, linewidth=1)
    over_steps(axes)
    axes.set_ylim(bottom=0)
    axes.set_xlabel('')
    axes.xaxis.set_major_locator(ticker.MaxNLocator(3, integer=True))
    axes.yaxis.set_major_locator(ticker.MaxNLocator(4))

  width, height = _SMALL
  return svg(name, height, draw, width)


def _series(shown: Sequence[Run]) -> dict[str, list[list[Run]]]:
  """From a method's name, and its network's where there are several, to its
  settings, each with the runs of all its seeds."""
  networks = runs.networks(shown)
  found: dict[str, list[list[Run]]] = {}
  for group in runs.groups(shown):
    run = group[0]
    net = f', {networks[run.network]}' if len(networks) > 1 else ''
    found.setdefault(run.method + net, []).append(group)
  return found


def _look(index: int | None) -> dict[str, Any]:
  """Colour, and a marker and a dash that tell it without colour."""
  if index is None:
    return {'color': INK, 'marker': 'o', 'linestyle': '-'}
  colors = [*SERIES.values()]
  return {
    'color': colors[index % len(colors)],
    'marker': _MARKERS[index % len(_MARKERS)],
    'linestyle': ('-', '--', '-.')[index // len(colors) % 3],
  }


def _kept(run: Run, against: str) -> float:
  s = run.summary
  kept = s['flops'] if against == 'flops' else s['nonzero'] / s['weights']
  return finite(kept)


def _joined(
  axes: Axes,
  groups: Sequence[Sequence[Run]],
  against: str,
  look: dict[str, Any],
  titles: dict[str, str],
) -> Line2D:
  """A line through the means, a bar of deviation on each, and single runs."""
  means = []
  for group in groups:
    for run in group:
      gid = f'run-{len(titles)}'
      point = _kept(run, against), 100 * finite(run.summary['top1'])
      dot = {k: look[k] for k in ('color', 'marker')}
      alone = len(group) == 1
      axes.plot(
        *([value] for value in point),
        **dot,
        markersize=5 if alone else 3.5,
        markeredgewidth=0,
        alpha=1 if alone else 0.45,
        gid=gid,
      )
      titles[gid] = f'{run.name}: {point[1]:.2f}%, {_said(run.summary)}'
    middle = sum(_kept(run, against) for run in group) / len(group)
    accuracy, spread = runs.mean(group, 'top1')
    means.append((middle, 100 * accuracy, 100 * spread, len(group)))
  means.sort(reverse=True)
  for x, y, spread, count in means:
    if count > 1:
      bar = axes.errorbar(
        [x], [y], [spread], color=look['color'], capsize=3, linewidth=1.2
      )
      bar.lines[0].set(marker=look['marker'], markersize=5.5, markeredgewidth=0)
  axes.plot(
    [x for x, *_ in means],
    [y for _, y, *_ in means],
    color=look['color'],
    linestyle=look['linestyle'],
  )
  return Line2D([], [], markersize=5, markeredgewidth=0, **look)


def _reference(
  axes: Axes,
  points: Sequence[Point],
  against: str,
  marker: str,
  titles: dict[str, str],
) -> Line2D:
  """Published points of a method: hollow and pale."""
  look: dict[str, Any] = {
    'color': INK,
    'alpha': 0.6,
    'linewidth': 0.8,
    'linestyle': ':',
    'markerfacecolor': 'none',
    'markersize': 4.5,
    'markeredgewidth': 0.8,
  }
  points = sorted(points, key=lambda point: -point.kept(against))
  axes.plot(
    [point.kept(against) for point in points],
    [point.top1 for point in points],
    **look,
  )
  for point in points:
    gid = f'published-{len(titles)}'
    axes.plot(
      [point.kept(against)], [point.top1], **look, marker=marker, gid=gid
    )
    titles[gid] = (
      f'{point.method}, published: {point.top1}% at {point.sparsity}% zeros '
      f'({point.source})'
    )
  label = _label(points[0].method)
  return Line2D([], [], **look, marker=marker, label=label)


def _label(method: str) -> str:
  return f'{method}, published'


def _said(summary: Any) -> str:
  return (
    f'{summary["sparsity"]:.2%} zeros, {summary["flops"]:,} multiply-adds, '
    f'{summary["method"]}'
  )


def _kept_axis(axes: Axes, against: str, kept: Sequence[float]) -> None:
  """A logarithmic axis of what is kept, from all on the left to little."""
  low, high = min(kept, default=0.1), max(kept, default=1.0)
  if against == 'flops':
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    digits = (5, 2, 1) if high < 300 * low else (1,)
    marks = [d * 10.0**e for e in range(last, first - 1, -1) for d in digits]
    labels = [ticker.EngFormatter(sep='')(mark) for mark in marks]
    axes.set_xlabel('multiply-adds an example, fewer to the right')
  else:
    marks = [1 - sparsity / 100 for sparsity in _SPARSITIES]
    labels = [f'{sparsity:g}%' for sparsity in _SPARSITIES]
    axes.set_xlabel('sparsity, by what is kept')
  # From the mark before the first point to the one after the last.
  left = min((m for m in marks if m >= high * 0.999), default=high)
  right = max((m for m in marks if m <= low * 1.001), default=low)
  chosen: list[tuple[float, str]] = []
  for mark, label in zip(marks, labels):
    # A tenth of the axis is as wide as the longest label.
    if right <= mark <= left and (
      not chosen or chosen[-1][0] / mark > (left / right) ** 0.1
    ):
      chosen.append((mark, label))
  axes.set_xticks([m for m, _ in chosen], [label for _, label in chosen])
  axes.xaxis.set_minor_locator(ticker.NullLocator())
  margin = max(left / right, 1.5) ** 0.04
  axes.set_xlim(left * margin, right / margin)
