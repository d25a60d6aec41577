"""The C header of a FastGRNN: compiled, and compared with JAX."""

import shutil
import subprocess

import jax
import numpy as np
import pytest

import str_jax
from benchmarks import c_cells, microcontroller
from str_jax import methods, models
from str_jax.interop import c_header, c_matrix
from str_jax.paths import named_leaves

GCC = shutil.which('gcc')
with_gcc = pytest.mark.skipif(GCC is None, reason='there is no gcc here')
LANGUAGES = {'c': ['-std=c99'], 'c++': ['-std=c++11']}
STEPS, INPUTS, HIDDEN, CLASSES = 40, 5, 12, 3
SHAPE = (STEPS, INPUTS, 1)
GATES = methods.create('str', init_value=-1.0, g='exp')  # threshold 0.37
WEIGHTS = methods.create('str', init_value=-0.5, g='exp')  # threshold 0.61
CELLS = {
  'full': {},
  'low_rank': {'w_rank': 2, 'u_rank': 3},
  'without_u': {'u_rank': 0, 'classifier_bias': False},
  'gated': {'gated': True, 'method': GATES},
  'sparse': {'method': WEIGHTS},
  'sparse_low_rank': {'method': WEIGHTS, 'w_rank': 4, 'u_rank': 6},
}


def trained(hidden=HIDDEN, shape=SHAPE, **settings):
  """A model and variables as training could leave them, no two alike."""
  model = models.create(
    'fastgrnn', num_classes=CLASSES, hidden=hidden, **settings
  )
  images = np.zeros((1, *shape), 'f')
  shapes = jax.eval_shape(model.init, jax.random.key(0), images)
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda leaf: rng.normal(0, 0.6, leaf.shape).astype('f'), shapes
  )
  for path, leaf in named_leaves(variables).items():
    if path[-1] == 'kernel_threshold':
      leaf[...] = settings['method'].init_value
    if path[-1] == 'kernel' and leaf.ndim == 1:
      leaf[::2] = 1  # gates: half of them and some more are alive
  return model, variables


def inputs(shape=SHAPE):
  return np.random.default_rng(1).standard_normal((4, *shape), 'f')


@with_gcc
@pytest.mark.parametrize('cell', CELLS)
def test_c_computes_what_jax_does(cell, tmp_path):
  model, variables = trained(**CELLS[cell])
  text = c_header.render(model, variables)
  assert ('add_sparse' in text) == ('sparse' in cell)
  logits, labels = c_cells.Cell(tmp_path, text).run(inputs())
  wanted = np.asarray(model.apply(variables, inputs()))
  assert np.ptp(wanted, axis=0).min() > 0.1  # the sequences matter
  np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-5)
  np.testing.assert_array_equal(labels, wanted.argmax(1))


@with_gcc
@pytest.mark.parametrize('values', c_header.VALUES)
def test_a_matrix_of_zeros(values, tmp_path):
  model, variables = trained()
  variables['params']['cell']['U']['kernel'][...] = 0
  text = c_header.render(model, variables, values)
  logits, _ = c_cells.Cell(tmp_path, text).run(inputs())
  wanted = model.apply(variables, inputs())
  near = 1e-5 if values == 'float32' else 0.5
  np.testing.assert_allclose(logits, wanted, rtol=near, atol=near)


def test_sums_of_int8_are_wide_on_every_machine():
  """Four products do not fit an int of 16 bits."""
  model, variables = trained()
  text = c_header.render(model, variables, 'int8')
  assert 'sum += (int32_t)(m[0] * q[j]) + m[1]' in text


@with_gcc
def test_a_column_beyond_the_256th(tmp_path):
  shape = (3, 300, 1)
  model, variables = trained(shape=shape, method=WEIGHTS)
  text = c_header.render(model, variables)
  assert 'uint16_t fastgrnn_w_indices' in text
  logits, _ = c_cells.Cell(tmp_path, text).run(inputs(shape))
  wanted = model.apply(variables, inputs(shape))
  np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-5)


def int8_product(weights, x):
  """What an int8 product is documented to be, in NumPy; weights (in, out)."""
  rows = np.abs(weights).max(0).astype(float)
  scale = rows.max() / (127 * 255)
  factors = np.maximum(np.ceil(rows / (127 * scale) - 1e-6), 1)
  whole = np.rint(weights / (scale * factors))
  step = np.abs(x).max(-1, keepdims=True) / np.float32(127) + 1e-30
  rounded = np.sign(x) * np.floor(np.abs(x) / step + 0.5)
  return scale * factors * step * (rounded @ whole)


def int8_cell(params, images):
  cell, last = params['cell'], params['classifier']
  sigmoid = lambda x: 1 / (1 + np.exp(-x))
  multiply = lambda matrix, x: (
    int8_product(
      matrix['up']['kernel'], int8_product(matrix['down']['kernel'], x)
    )
    if 'down' in matrix
    else int8_product(matrix['kernel'], x)
  )
  h = np.zeros((len(images), HIDDEN))
  for x in images[..., 0].swapaxes(0, 1):
    both = multiply(cell['W'], x) + multiply(cell['U'], h)
    z, c = sigmoid(both + cell['b_z']), np.tanh(both + cell['b_h'])
    h = (sigmoid(cell['zeta']) * (1 - z) + sigmoid(cell['nu'])) * c + z * h
  return int8_product(last['kernel'], h) + last['bias']


@with_gcc
@pytest.mark.parametrize('cell', ['full', 'low_rank', 'sparse'])
def test_int8_is_as_documented_and_near_jax(cell, tmp_path):
  model, variables = trained(**CELLS[cell])
  if cell == 'sparse':  # more zeros, that a place for each still pays
    kernel = variables['params']['cell']['U']['kernel']
    kernel[np.abs(kernel) < 1.2] = 0
  text = c_header.render(model, variables, 'int8')
  assert ('add_sparse' in text) == (cell == 'sparse')
  logits, _ = c_cells.Cell(tmp_path, text).run(inputs())
  params = str_jax.effective_params(model.method, variables)
  wanted = int8_cell(jax.tree.map(np.asarray, params), inputs())
  np.testing.assert_allclose(logits, wanted, atol=1e-4)
  exact = model.apply(variables, inputs())
  assert 1e-4 < np.abs(logits - exact).max() < 0.05 * np.ptp(exact)


@with_gcc
@pytest.mark.parametrize('values', c_header.VALUES)
@pytest.mark.parametrize('language', LANGUAGES)
def test_the_usage_in_its_comment_compiles(values, language, tmp_path):
  if language == 'c++' and shutil.which('g++') is None:
    pytest.skip('there is no g++ here')
  model, variables = trained(**CELLS['sparse_low_rank'])
  text = c_header.render(model, variables, values)
  (tmp_path / 'cell.h').write_text(text)
  comment = text[: text.index('*/')]
  usage = [
    line.replace('numbers, again for every step', '').split(';  ')[0]
    for line in comment.splitlines()
    if line.startswith('     ') and (';' in line)
  ]
  lines = [line.strip().rstrip(';') + ';' for line in usage]
  assert len(lines) == 6
  source = '#define STEPS 2\n#include "cell.h"\nint main(void) {\n'
  source += '\n'.join(lines) + '\nreturn label < 0; }\n'
  (tmp_path / 'main.c').write_text(source)
  subprocess.run(
    [GCC, *c_cells.STRICT, *LANGUAGES[language], '-x', language, 'main.c']
    + ['-Wno-unused', '-fsyntax-only'],
    cwd=tmp_path,
    check=True,
  )


@with_gcc
@pytest.mark.parametrize('values', c_header.VALUES)
def test_the_sizes_it_says_are_the_compilers(values, tmp_path):
  model, variables = trained(**CELLS['low_rank'])
  said = c_header.write(tmp_path / 'cell.h', model, variables, values)
  numbers = [
    int(word.replace(',', '')) for word in said.split() if word[0].isdigit()
  ]
  constants, memory, step, last = numbers
  text = (tmp_path / 'cell.h').read_text()
  compiled = c_cells.Cell(tmp_path, text).bytes()
  assert memory == compiled['memory']
  assert constants <= compiled['constants'] < constants + 300  # alignment
  products = (INPUTS * 2 + 2 * HIDDEN, HIDDEN * 3 * 2)
  assert (step, last) == (sum(products), HIDDEN * CLASSES)
  vectors = 4 * (2 * HIDDEN + CLASSES)
  rows = 2 + HIDDEN + 3 + HIDDEN + CLASSES
  each = {'float32': 4 * (step + last), 'int8': step + last + rows}[values]
  assert constants == each + vectors
  assert said in ' '.join(text.split())


@with_gcc
def test_the_benchmark_runs(monkeypatch):
  monkeypatch.setattr(microcontroller, 'RANKS', {40: ((None, None), (4, 5))})
  monkeypatch.setattr(microcontroller, 'STEPS', 3)
  rows = microcontroller.sizes(seconds=0.1)
  full, full8, low, low8 = rows
  assert low8['constants'] < full8['constants'] < low['constants']
  assert low['constants'] < full['constants']
  assert all(0 < row['milliseconds'] < 1e3 for row in rows)
  assert full['error'] < 1e-5 < full8['error'] < 0.1
  table = microcontroller.table(
    [
      {'what': 'sizes', 'compiler': 'gcc', 'machine': 'here', **row}
      for row in rows
    ]
  )
  assert '| (4, 5) | int8 |' in table and '100%' in table


def test_numbers_are_read_back_as_they_were():
  rng = np.random.default_rng(0)
  bits = rng.integers(0, 2**32, 2000, dtype=np.uint32)
  values = bits.view('f')
  values = np.append(values[np.isfinite(values)], np.float32([0, -0.0, 1, 1e9]))
  for value in values:
    text = c_matrix.number(value)
    assert text.endswith('f') and ('.' in text or 'e' in text)
    assert np.float32(text[:-1]).tobytes() == value.tobytes()


def test_another_model():
  model = models.create('convnet', num_classes=3)
  with pytest.raises(ValueError, match='FastGRNN alone .* got a ConvNet'):
    c_header.render(model, {})


def test_other_values():
  with pytest.raises(ValueError, match="float32 or int8, got 'int4'"):
    c_header.render(*trained(), 'int4')


@pytest.mark.parametrize('cell', ['gated', 'sparse'])
def test_thresholds_without_their_method(cell):
  model, variables = trained(**CELLS[cell])
  with pytest.raises(ValueError, match='no method.*the one they belong to'):
    c_header.render(model.clone(method=None), variables)


@pytest.mark.parametrize(
  'settings', [{'w_rank': 2}, {'hidden': 9}, {'classifier_bias': False}]
)
def test_variables_of_another_fastgrnn(settings):
  _, variables = trained()
  model, _ = trained(**settings)
  with pytest.raises(ValueError, match='not those of this FastGRNN'):
    c_header.render(model, variables)


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_weights_that_are_not_finite(value):
  model, variables = trained()
  variables['params']['cell']['U']['kernel'][1, 2] = value
  with pytest.raises(ValueError, match='cell/U/kernel holds .* not finite'):
    c_header.render(model, variables)


def test_no_rank_is_left_in_w():
  model, variables = trained(**CELLS['gated'])
  variables['params']['cell']['W']['kernel'][:] = 0.1
  with pytest.raises(ValueError, match='no rank is left in W'):
    c_header.render(model, variables)


def test_a_state_that_is_too_large():
  model, variables = trained(hidden=40_000, w_rank=1, u_rank=0)
  with pytest.raises(ValueError, match='up to 32,767 hidden, got 40,000'):
    c_header.render(model, variables)


def test_a_folder_that_is_not_there(tmp_path):
  path = tmp_path / 'no' / 'cell.h'
  with pytest.raises(FileNotFoundError, match='no is not there; make it'):
    c_header.write(path, *trained())
