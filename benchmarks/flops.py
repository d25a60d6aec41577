"""FLOPs and weights of the published budgets, beside the paper's figures.

  python -m benchmarks.flops

Counts the multiply-adds of our networks from their own traces, weighs them
with the 16 budgets that STR learned and writes the table to
benchmarks/results/flops.md. Takes seconds and trains nothing.
"""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from str_jax import budgets, flops, models
from str_jax.paths import kernels

HERE = pathlib.Path(__file__).resolve().parent
IMAGE = (224, 224, 3)


def main() -> None:
  text = table()
  (HERE / 'results' / 'flops.md').write_text(text)
  print(text)


def figures() -> dict[str, dict[str, float]]:
  """The paper's figures by the name of the budget."""
  with open(HERE / 'str_resnet50.csv', encoding='utf-8') as file:
    next(file)  # the line that names the source
    return {
      f'str-resnet50-{row["sparsity"]}': {k: float(v) for k, v in row.items()}
      for row in csv.DictReader(file)
    }


def kept(amounts: Mapping[str, int], budget: Mapping[str, float]) -> float:
  """What a budget leaves of multiply-adds, or of weights, in millions."""
  return sum(n * (1 - budget[layer]) for layer, n in amounts.items()) / 1e6


def table() -> str:
  """Ours beside the paper's, as Markdown."""
  counts = {
    name: flops.count(models.create(name, num_classes=1000), IMAGE)
    for name in ('resnet50', 'mobilenet_v1')
  }
  variables = jax.eval_shape(
    models.create('resnet50', num_classes=1000).init,
    jax.random.key(0),
    jnp.zeros((1, *IMAGE)),
  )
  weights = {k: w.size for k, w in kernels(variables['params']).items()}
  lines = [
    '| ResNet50, zeros | FLOPs, M | paper | weights, M | paper |',
    '|---|---:|---:|---:|---:|',
  ]
  for name, paper in figures().items():
    budget = budgets.load_published(name)
    lines.append(
      f'| {paper["sparsity"]:.2f}% '
      f'| {kept(counts["resnet50"], budget):.2f} | {paper["mflops"]:.0f} '
      f'| {kept(weights, budget):.3f} | {paper["params_millions"]:.2f} |'
    )
  dense = {name: sum(count.values()) for name, count in counts.items()}
  return '\n'.join(lines) + NOTE.format(**dense)


NOTE = """

Dense: ResNet50 {resnet50:,} (paper 4.09G), MobileNetV1 {mobilenet_v1:,}
(paper 569M).

FLOPs are multiply-adds at 224x224. The authors' table of budgets counts the
average pool (7 * 7 * 2048 = 100,352) in the dense total, 4,089,284,608, and
gives it 100% zeros in every sparse one, so nothing is added here. Its
sparsities have four digits, which leaves 0.2M open at most: 766.54 is 766 to
within that. The paper's 4.47M weights at 81.27% disagree with its own
sparsity: 18.73% of 25,502,912 are 4.78M.
"""


if __name__ == '__main__':
  main()
