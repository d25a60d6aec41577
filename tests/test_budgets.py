"""Budgets: what they come to, what a file carries, what is refused."""

import fnmatch
import math
import pathlib
import tomllib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from str_jax import budgets, models, report
from str_jax.paths import kernels

ROOT = pathlib.Path(__file__).parent.parent
SHAPES = {
  'stem': (3, 3, 3, 8),
  'block/depthwise': (3, 3, 1, 8),
  'block/pointwise': (1, 1, 8, 64),
  'classifier': (64, 10),
}


@pytest.fixture(scope='module')
def resnet50():
  """Shapes of the kernels of a full ResNet50."""
  variables = jax.eval_shape(
    models.create('resnet50', num_classes=1000).init,
    jax.random.key(0),
    jnp.zeros((1, 224, 224, 3)),
  )
  return {name: w.shape for name, w in kernels(variables['params']).items()}


def total(budget, shapes):
  """Fraction of zeros over all layers."""
  sizes = {layer: math.prod(shape) for layer, shape in shapes.items()}
  return sum(budget[k] * n for k, n in sizes.items()) / sum(sizes.values())


@pytest.mark.parametrize('sparsity', [0.0, 0.1, 0.5, 0.8, 0.9, 0.99, 0.9999])
@pytest.mark.parametrize('rule', [budgets.uniform, budgets.erk])
def test_the_whole_net_has_the_sparsity_asked_for(rule, sparsity, resnet50):
  for shapes in (SHAPES, resnet50):
    budget = rule(shapes, sparsity)
    assert list(budget) == list(shapes)
    assert all(0 <= value <= 1 for value in budget.values())
    assert total(budget, shapes) == pytest.approx(sparsity, abs=1e-12)


def test_erk_by_hand():
  """Two layers would need more than all their weights, one after the other."""
  left = 0.85 * (216 + 72 + 512 + 640)
  assert left / (17 + 18 + 74 + 74) * 18 > 72
  assert left / (17 + 18 + 74 + 74) * 74 < 512
  assert (left - 72) / (17 + 74 + 74) * 74 > 512
  epsilon = (left - 72 - 512) / (17 + 74)  # the sums of the dimensions
  expected = {
    'stem': 1 - epsilon * 17 / 216,
    'block/depthwise': 0.0,
    'block/pointwise': 0.0,
    'classifier': 1 - epsilon * 74 / 640,
  }
  assert budgets.erk(SHAPES, 0.15) == pytest.approx(expected, abs=1e-12)


def test_erk_of_resnet50_is_the_published_one(resnet50):
  """To the two digits that were published."""
  theirs = budgets.load_published('erk-resnet50-90')
  assert budgets.erk(resnet50, 0.9) == pytest.approx(theirs, abs=0.005)


def test_a_file_carries_every_bit(tmp_path):
  values = np.random.default_rng(0).random(50).tolist() + [0.0, 1.0, 5e-324]
  budget = {f'block, {i}/"conv"': value for i, value in enumerate(values)}
  budgets.write_csv(tmp_path / 'b.csv', budget)
  again = budgets.read_csv(tmp_path / 'b.csv')
  assert list(again.items()) == list(budget.items())


def test_the_table_of_a_report_is_a_budget(tmp_path):
  kernel = jnp.array([[0.0, 2.0, 0.0]])
  rows = report.sparsity_report(None, {'params': {'fc': {'kernel': kernel}}})
  (tmp_path / 'b.csv').write_text(rows.to_csv(), encoding='utf-8')
  expected = {'fc': 1 - 1 / 3}
  assert budgets.read_csv(tmp_path / 'b.csv') == expected
  assert budgets.from_report(rows) == expected


def test_a_spreadsheets_file_is_read(tmp_path):
  text = '\ufefflayer,note,sparsity\r\nfc,"two\r\nlines",0.5\r\n'
  (tmp_path / 'b.csv').write_bytes(text.encode())
  assert budgets.read_csv(tmp_path / 'b.csv') == {'fc': 0.5}


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'', r'line 1 of .*b\.csv .* columns layer and sparsity, but has none'),
    (b'layer,zeros\nfc,0.5\n', 'line 1 .* but has layer, zeros'),
    (b'layer,sparsity\n', r'b\.csv has no line with a layer'),
    (b'layer,sparsity\na,0.5\nfc\n', "line 3 .*'fc' .*but gives None"),
    (b'layer,sparsity\nfc,\n', "line 2 .*'fc' .*but gives ''"),
    (b'layer,sparsity\nfc,90%\n', "line 2 .*'fc' .*but gives '90%'"),
    (b'layer,sparsity\nfc,nan\n', r"line 2 .*in \[0, 1\], but gives 'nan'"),
    (b'layer,sparsity\nfc,90\n', "but gives '90'"),
    (b'layer,sparsity\nfc,-0.1\n', "but gives '-0.1'"),
    (b'layer,sparsity\nfc,.5\nfc,.5\n', "line 3 .*'fc' a second time"),
    (b'layer,sparsity\n\xff,0.5\n', 'should be CSV text and is not'),
  ],
)
def test_a_damaged_file_is_one_sentence(tmp_path, content, message):
  (tmp_path / 'b.csv').write_bytes(content)
  with pytest.raises(ValueError, match=message):
    budgets.read_csv(tmp_path / 'b.csv')


def test_a_missing_file_is_one_sentence(tmp_path):
  for path in (tmp_path / 'b.csv', tmp_path):  # a folder is no file either
    with pytest.raises(FileNotFoundError, match='report --budget'):
      budgets.read_csv(path)


def test_published_budgets_fit_our_resnet50(resnet50):
  names = budgets.published()
  assert len(names) == 20 and 'str-resnet50-90.23' in names
  for name in names:
    budget = budgets.resolve(name, resnet50, None)
    assert set(budget) == set(resnet50)
    percent = float(name.rpartition('-')[2])
    # The others are not at 90 to the digit: see the README beside the file.
    off = 0.01 if name.startswith('str-') else 0.3
    assert 100 * total(budget, resnet50) == pytest.approx(percent, abs=off)


def test_a_wheel_holds_every_data_file():
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())
  (patterns,) = project['tool']['setuptools']['package-data'].values()
  package = ROOT / 'str_jax'
  data = [
    str(path.relative_to(package))
    for path in package.rglob('*')
    if path.is_file() and path.suffix not in ('.py', '.pyc')
  ]
  assert 'published/resnet50.csv' in data
  for name in data:
    assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns), name


def test_resolve_takes_a_name_or_sparsities():
  assert budgets.resolve('erk', SHAPES, 0.8) == budgets.erk(SHAPES, 0.8)
  assert budgets.resolve('uniform', SHAPES, 0.8)['stem'] == 0.8
  given = dict(zip(reversed(SHAPES), (0, 1, np.float32(0.5), 0.25)))
  given['a layer that stays dense'] = 0.0
  for sparsity in (None, 0.9):
    budget = budgets.resolve(given, SHAPES, sparsity)
    assert list(budget.items()) == [
      ('stem', 0.25),
      ('block/depthwise', 0.5),
      ('block/pointwise', 1.0),
      ('classifier', 0.0),
    ]


GIVEN = dict.fromkeys(SHAPES, 0.5)


@pytest.mark.parametrize(
  ('budget', 'sparsity', 'message'),
  [
    ('uniform', None, 'uniform needs a sparsity'),
    ('erk', 90, r'in \[0, 1\), got 90; 90% is 0.9'),
    ('erk', 1.0, r'in \[0, 1\), got 1.0'),
    ('uniform', float('nan'), r'in \[0, 1\), got nan'),
    ('ekr', 0.9, "uniform, erk, .*str-resnet50-90.23, .*got 'ekr'"),
    ({'stem': 0.5}, None, r'lacks block/depthwise, .*classifier and .* none'),
    (
      {},
      None,
      r'lacks stem, block/depthwise, block/pointwise \(4 in all\)',
    ),
    (GIVEN | {'conv1': 0.5}, None, 'lacks none and besides names conv1'),
    ('str-resnet50-90.23', None, r'lacks block/depthwise, .*\(52 in all\)'),
    (GIVEN | {'stem': 1.5}, None, r'in \[0, 1\], but has stem 1.5'),
    (GIVEN | {'stem': float('nan')}, None, 'but has stem nan'),
    (GIVEN | {'stem': -0.1, 'classifier': None}, None, 'stem -0.1, classifier'),
  ],
)
def test_resolve_says_what_is_wrong(budget, sparsity, message):
  with pytest.raises(ValueError, match=message):
    budgets.resolve(budget, SHAPES, sparsity)


def test_a_net_without_layers_has_no_budget():
  with pytest.raises(ValueError, match='at least one layer'):
    budgets.erk({}, 0.9)


def test_an_unknown_published_name_lists_the_known():
  with pytest.raises(ValueError, match="no .*'str-90'; there are str-resnet50"):
    budgets.load_published('str-90')
