"""The pictures of docs/methods.md, as SVG in docs/pictures.

  python -m benchmarks.pictures

What the methods make of a weight is asked of the methods themselves. How
training goes is benchmarks/results/dynamics.json, which benchmarks/dynamics.py
measures. Nothing in a picture is drawn by hand.
"""

from __future__ import annotations

import io
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib import figure, style

from benchmarks import dynamics, record
from str_jax import methods
from str_jax.training.drawing import (
  FEW,
  INK,
  STYLE,
  layer_colors,
  legend,
  over_steps,
)

FOLDER = record.ROOT / 'docs' / 'pictures'
GREY = '#808080'  # text that is read on white and on black alike
THRESHOLD = 0.5
WIDTHS = {'ST-3': 7, 'Feather': 4}  # they are asked for the same course


def curves() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """Of each method: weights, what it makes of them, and their gradients."""
  made = {
    'STR': methods.create('str', g='exp', init_value=0.0),
    'STR, target': methods.create(
      'str', target=0.5, rescale=False, gradient_scale=0.3
    ),
    'ST-3': methods.create('st3', sparsity=0.5, rescale=False),
    'Feather': methods.create('feather', sparsity=0.96),
    'GMP': methods.create('gmp', sparsity=0.5),
    'DNW': methods.create('dnw', sparsity=0.5),
  }
  w = jnp.linspace(-1.5, 1.5, 301)[:, None]
  t = jnp.full((1, 1), THRESHOLD)
  leaves = {
    'STR': (jnp.log(t),),  # exp(s) is the threshold
    'STR, target': (jnp.zeros((1, 1)), t),
  }
  found = {}
  for name, method in made.items():
    assert method is not None
    own = leaves.get(name, (t,))
    gradient = jax.grad(lambda w, m=method, own=own: m(w, *own).sum())(w)
    found[name] = tuple(
      np.asarray(x)[:, 0] for x in (w, method(w, *own), gradient)
    )
  return found


def thresholds() -> str:
  """Effective weights and gradients over weights, a column a method."""
  found = curves()

  def draw(axes: np.ndarray) -> None:
    for column, (name, (w, q, gradient)) in enumerate(found.items()):
      top, bottom = axes[:, column]
      top.plot(w, w, color=INK, alpha=0.3, linewidth=0.8)
      top.plot(w, q, color=FEW[0])
      bottom.plot(w, gradient, color=FEW[5])
      top.set_title(name, fontsize=10, color=INK)
      top.set_ylim(-1.6, 1.6)
      bottom.set_ylim(-0.1, 1.4)
      for one in (top, bottom):
        one.grid(True)
        one.set_xticks((-1, 0, 1))
      bottom.set_xlabel('w')
      if column:
        top.tick_params(labelleft=False)
        bottom.tick_params(labelleft=False)
    axes[0, 0].set_ylabel('effective weight')
    axes[1, 0].set_ylabel('its derivative')

  return _svg(draw, (760, 330), (2, len(found)))


def sparsity_over_training(runs: Sequence[dict[str, Any]]) -> str:
  """Zeros of the whole net over steps, a line a method."""

  def draw(axes: np.ndarray) -> None:
    (one,) = axes.flat
    for color, run in zip(FEW, runs):
      zeros = 100 * np.array(run['sparsity'])
      width = WIDTHS.get(run['run'], 1.5)
      one.plot(
        run['step'], zeros, color=color, label=run['run'], linewidth=width
      )
    one.set_ylim(0, 100)
    one.set_ylabel('zeros, %')
    over_steps(one)
    one.legend(loc='lower right', labelcolor=INK, ncols=2)

  return _svg(draw, (560, 280), (1, 1))


def thresholds_over_training(runs: Sequence[dict[str, Any]]) -> str:
  """The threshold of every layer over steps, a panel a method."""

  def draw(axes: np.ndarray) -> None:
    for one, run in zip(axes.flat, runs):
      layers = list(run['layer_threshold'][0])
      for color, layer in zip(layer_colors(len(layers)), layers):
        values = [line[layer] for line in run['layer_threshold']]
        one.plot(run['step'], values, color=color, label=layer)
      one.set_title(run['run'], fontsize=10, color=INK)
      over_steps(one)
    axes.flat[0].set_ylabel('threshold')
    legend(axes.flat[0], axes.flat[0].lines)

  return _svg(draw, (760, 260), (1, len(runs)))


def _svg(
  draw: Callable[[np.ndarray], None],
  size: tuple[int, int],
  panels: tuple[int, int],
) -> str:
  """A picture of some panels; `size` is in pixels, of 72 an inch."""
  file = io.StringIO()
  fixed = {'svg.hashsalt': 'str_jax', 'svg.fonttype': 'none'}
  with style.context(['default', STYLE | fixed], after_reset=True):
    picture = figure.Figure([x / 72 for x in size], layout='constrained')
    draw(picture.subplots(*panels, squeeze=False))
    picture.savefig(file, format='svg', metadata={'Date': None})
  return re.sub(INK, GREY, file.getvalue())


def main() -> None:
  FOLDER.mkdir(exist_ok=True)
  runs = {run['run']: run for run in record.read(dynamics.RESULTS)}
  ordered = [runs[name] for name in dynamics.RUNS]
  drawn = {
    'thresholds': thresholds(),
    'sparsity': sparsity_over_training(ordered),
    'by_layer': thresholds_over_training(ordered[:3]),
  }
  for name, svg in drawn.items():
    path = pathlib.Path(FOLDER, f'{name}.svg')
    path.write_text(svg)
    print(path.relative_to(record.ROOT))


if __name__ == '__main__':
  main()
