"""Budgets: how many zeros each layer is to have.

A budget is a dict from a layer's path, '/' between levels, as in reports, to
its sparsity, the fraction of zeros in [0, 1].
"""

from __future__ import annotations

import csv
import io
import math
import pathlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

Budget = dict[str, float]
Shapes = Mapping[str, tuple[int, ...]]


def uniform(shapes: Shapes, sparsity: float) -> Budget:
  """The same sparsity in every layer.

  Args:
    shapes: of the weights, by layer.
    sparsity: fraction of zeros, in [0, 1).

  Returns:
    The budget.

  Raises:
    ValueError: no layer, or a sparsity out of range.

  >>> uniform({'conv': (3, 3, 16, 32), 'fc': (32, 10)}, 0.9)
  {'conv': 0.9, 'fc': 0.9}
  """
  _check_wanted(shapes, sparsity)
  return dict.fromkeys(shapes, float(sparsity))


def erk(shapes: Shapes, sparsity: float) -> Budget:
  r"""Erdos-Renyi-Kernel: the larger the layer, the sparser.

  .. math::
     1 - p_l = \min\left(1, \epsilon\,
       \frac{\sum_i d_{l,i}}{\prod_i d_{l,i}}\right)

  with :math:`d_l` the dimensions of the weight (in + out over in * out for a
  dense layer) and :math:`\epsilon` such that the whole net has the sparsity
  asked for. The dimensions are taken as they stand: those of a depthwise
  kernel are (height, width, 1, channels) in Flax.

  Args:
    shapes: of the weights, by layer.
    sparsity: fraction of zeros over all layers, in [0, 1).

  Returns:
    The budget; layers that would need a density above 1 have sparsity 0.

  Raises:
    ValueError: no layer, or a sparsity out of range.

  RigL (Evci et al., ICML 2020, arXiv 1911.11134), section 3.

  >>> budget = erk({'conv': (3, 3, 16, 32), 'fc': (32, 10)}, 0.9)
  >>> {layer: round(sparsity, 3) for layer, sparsity in budget.items()}
  {'conv': 0.94, 'fc': 0.326}
  >>> zeros = budget['conv'] * 3 * 3 * 16 * 32 + budget['fc'] * 32 * 10
  >>> round(zeros / (3 * 3 * 16 * 32 + 32 * 10), 9)
  0.9
  """
  _check_wanted(shapes, sparsity)
  sizes = {layer: math.prod(shape) for layer, shape in shapes.items()}
  ratio = {layer: sum(shape) / sizes[layer] for layer, shape in shapes.items()}
  left = (1 - sparsity) * sum(sizes.values())  # non-zeros to hand out
  epsilon, dense = 0.0, set[str]()
  while len(dense) < len(shapes):
    spread = [layer for layer in shapes if layer not in dense]
    epsilon = left / sum(ratio[layer] * sizes[layer] for layer in spread)
    full = {layer for layer in spread if epsilon * ratio[layer] > 1}
    if not full:
      break
    dense |= full
    left -= sum(sizes[layer] for layer in full)
  return {
    layer: 0.0 if layer in dense else max(0.0, 1 - epsilon * ratio[layer])
    for layer in shapes
  }


def from_report(report: Any) -> Budget:
  """The sparsity that each layer of a trained network came to.

  Args:
    report: what :func:`str_jax.report.sparsity_report` returned, or anything
      else whose ``rows`` have a ``name`` and a ``sparsity``.

  Returns:
    The budget.

  >>> from str_jax import report
  >>> variables = {'params': {'fc': {'kernel': report.jnp.eye(2)}}}
  >>> from_report(report.sparsity_report(None, variables))
  {'fc': 0.5}
  """
  return {row.name: row.sparsity for row in report.rows}


def write_csv(path: str | pathlib.Path, budget: Mapping[str, float]) -> None:
  r"""Writes a budget as CSV, to the last bit of every sparsity.

  Args:
    path: the file.
    budget: the budget.

  >>> import pathlib, tempfile
  >>> with tempfile.TemporaryDirectory() as folder:
  ...   path = pathlib.Path(folder, 'budget.csv')
  ...   write_csv(path, {'stem': 0.1, 'fc': 2 / 3})
  ...   path.read_text()
  'layer,sparsity\nstem,0.1\nfc,0.6666666666666666\n'
  """
  rows = [('layer', 'sparsity'), *((k, float(p)) for k, p in budget.items())]
  text = io.StringIO()
  csv.writer(text, lineterminator='\n').writerows(rows)
  try:
    pathlib.Path(path).write_text(text.getvalue(), encoding='utf-8')
  except OSError as error:
    raise OSError(
      f'the budget {path} cannot be written: {error.strerror}.'
    ) from error


def read_csv(path: str | pathlib.Path) -> Budget:
  r"""Reads a budget: CSV with the columns ``layer`` and ``sparsity``.

  Further columns are passed over, and ``name`` will do for ``layer``: what
  ``python -m str_jax report --csv`` writes is a budget too.

  Args:
    path: the file.

  Returns:
    The budget.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: a column is missing, a layer stands twice, or a sparsity is
      no number in [0, 1]; the sentence names the line.

  >>> import pathlib, tempfile
  >>> with tempfile.TemporaryDirectory() as folder:
  ...   path = pathlib.Path(folder, 'budget.csv')
  ...   _ = path.write_text('name,weights,sparsity\nfc,640,0.9\n')
  ...   read_csv(path)
  {'fc': 0.9}
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(
      f'the budget {path} is missing: name a CSV file with the columns layer '
      'and sparsity, such as `python -m str_jax report --budget` writes.'
    )
  try:
    return _parse(path.read_text(encoding='utf-8-sig'), str(path), 'sparsity')
  except (UnicodeDecodeError, csv.Error) as error:
    raise ValueError(
      f'the budget {path} should be CSV text and is not: {error}.'
    ) from None


def published() -> tuple[str, ...]:
  """The names that :func:`load_published` knows: method, model, zeros in %.

  >>> published()[:2]
  ('str-resnet50-79.55', 'str-resnet50-81.27')
  """
  _, *columns = next(csv.reader([_resnet50().partition('\n')[0]]))
  return tuple(name for name in columns if '-resnet50-' in name)


def load_published(name: str) -> Budget:
  """A budget that was published, with the layers of our ResNet50.

  The 16 that STR learned on ImageNet-1K, and others at 90%; the package's
  published/README.md names the sources.

  Args:
    name: one of :func:`published`.

  Returns:
    The budget.

  Raises:
    ValueError: an unknown name.

  STR (ICML 2020), its released code.

  >>> load_published('str-resnet50-90.23')['stem']
  0.598
  """
  if name not in published():
    raise ValueError(
      f'there is no published budget {name!r}; there are '
      f'{", ".join(published())}.'
    )
  return _parse(_resnet50(), 'str_jax/published/resnet50.csv', name)


def resolve(
  budget: str | Mapping[str, float], shapes: Shapes, sparsity: float | None
) -> Budget:
  """The budget of a network, from a name or from given sparsities.

  Args:
    budget: 'uniform', 'erk', one of :func:`published`, or sparsities by
      layer.
    shapes: of the network's weights, by layer.
    sparsity: fraction of zeros over all layers, in [0, 1), for 'uniform' and
      'erk'; not looked at for a budget that is given.

  Returns:
    The budget, its layers in the order of ``shapes``.

  Raises:
    ValueError: an unknown name; no sparsity where one is needed; a layer that
      is missing, or unknown and not at 0; a sparsity outside [0, 1].

  >>> resolve({'fc': 0.8}, {'fc': (32, 10)}, None)
  {'fc': 0.8}
  >>> resolve({'conv': 0.8}, {'fc': (32, 10)}, None)
  Traceback (most recent call last):
  ValueError: a budget must name the layers to sparsify and no others, but of
  these it lacks fc and besides names conv.
  """
  if isinstance(budget, str):
    named = {'uniform': uniform, 'erk': erk}
    if budget in named:
      if sparsity is None:
        raise ValueError(
          f'the budget {budget} needs a sparsity: the fraction of zeros over '
          'all layers, in [0, 1).'
        )
      return named[budget](shapes, sparsity)
    if budget not in published():
      raise ValueError(
        f'a budget must be uniform, erk, sparsities by layer (read_csv reads '
        f'them) or one of {", ".join(published())}; got {budget!r}.'
      )
    budget = load_published(budget)
  missing = [layer for layer in shapes if layer not in budget]
  # A layer that stays dense may be named, with the 0 that it has anyway.
  unknown = [layer for layer, p in budget.items() if p and layer not in shapes]
  if missing or unknown:
    raise ValueError(
      'a budget must name the layers to sparsify and no others, but of these '
      f'it lacks {_some(missing)} and besides names {_some(unknown)}.'
    )
  wrong = [f'{k} {v!r}' for k, v in budget.items() if not _is_sparsity(v)]
  if wrong:
    raise ValueError(
      'a budget must hold sparsities (fractions of zeros) in [0, 1], but has '
      f'{_some(wrong)}.'
    )
  return {layer: float(budget[layer]) for layer in shapes}


def _check_wanted(shapes: Shapes, sparsity: float) -> None:
  if not shapes:
    raise ValueError('a budget needs at least one layer, got none.')
  if not 0 <= sparsity < 1:
    raise ValueError(
      'a budget needs a sparsity (fraction of zeros) in [0, 1), got '
      f'{sparsity}; 90% is 0.9.'
    )


def _is_sparsity(value: Any) -> bool:
  try:
    return 0 <= float(value) <= 1  # False for NaN
  except (TypeError, ValueError):
    return False


def _some(names: Sequence[str], most: int = 3) -> str:
  """The first names, and how many more there are."""
  more = f' ({len(names)} in all)' if len(names) > most else ''
  return (', '.join(names[:most]) or 'none') + more


def _resnet50() -> str:
  file = resources.files('str_jax').joinpath('published', 'resnet50.csv')
  return file.read_text(encoding='utf-8')


def _parse(text: str, source: str, column: str) -> Budget:
  """The budget in a column of CSV text; errors name the source."""
  reader = csv.DictReader(io.StringIO(text, newline=''))
  columns = reader.fieldnames or []
  key = 'layer' if 'layer' in columns else 'name'
  if key not in columns or column not in columns:
    raise ValueError(
      f'line 1 of {source} should have the columns layer and {column}, but has '
      f'{", ".join(columns) or "none"}.'
    )
  budget: Budget = {}
  for row in reader:
    layer, value = row[key], row[column]
    where = f'line {reader.line_num} of {source}'
    if layer in budget:
      raise ValueError(f'{where} names the layer {layer!r} a second time.')
    if not _is_sparsity(value):
      raise ValueError(
        f'{where} should give the layer {layer!r} a sparsity (fraction of '
        f'zeros) in [0, 1], but gives {value!r}.'
      )
    budget[layer] = float(value)
  if not budget:
    raise ValueError(f'{source} has no line with a layer.')
  return budget
