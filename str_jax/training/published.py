"""Accuracies that others published, to stand beside runs of the same kind."""

from __future__ import annotations

import csv
import dataclasses
import math
from importlib import resources


@dataclasses.dataclass(frozen=True)
class Point:
  """A published result.

  Attributes:
    model: as `str_jax.models.create` calls it.
    dataset: as TFDS calls it.
    method: as its authors call it.
    sparsity: zeros in percent.
    top1: accuracy on ImageNet's validation images, in percent.
    flops: multiply-adds an example; None where they were not published.
    source: who published it.
  """

  model: str
  dataset: str
  method: str
  sparsity: float
  top1: float
  flops: int | None
  source: str

  def kept(self, of: str) -> float:
    """What is kept, of 'flops' (their number) or of 'sparsity' (a share); NaN
    where it was not published."""
    if of == 'sparsity':
      return 1 - self.sparsity / 100
    return math.nan if self.flops is None else self.flops


# Of the networks the figures are of, at 224 x 224 and with 1,000 classes.
_DENSE_FLOPS = {'resnet50': 4_089_184_256, 'mobilenet_v1': 568_740_352}


def points(model: str, dataset: str, dense_flops: int) -> list[Point]:
  """What was published of a network on a data set.

  Args:
    model: as `str_jax.models.create` calls it.
    dataset: as TFDS calls it.
    dense_flops: multiply-adds of the dense network: another number is of
      another network, or of other images.

  Returns:
    The points; none where network or data set are others.

  >>> len(points('resnet50', 'imagenet2012', 4089184256))
  58
  >>> points('resnet50', 'cifar10', 4089184256)
  []
  """
  if _DENSE_FLOPS.get(model) != dense_flops:
    return []
  path = resources.files('str_jax') / 'published' / 'accuracy.csv'
  rows = csv.DictReader(path.read_text(encoding='utf-8').splitlines())
  return [
    Point(
      **{name: row[name] for name in ('model', 'dataset', 'method', 'source')},
      sparsity=float(row['sparsity']),
      top1=float(row['top1']),
      flops=int(row['flops']) if row['flops'] else None,
    )
    for row in rows
    if (row['model'], row['dataset']) == (model, dataset)
  ]
