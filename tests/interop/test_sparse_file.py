"""Sparse files: exact both ways, small, readable by others, safe to read."""

import json
import pathlib
import re

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks import sizes
from str_jax.interop import dense_file, files, sparse_file

ROOT = pathlib.Path(__file__).parents[2]
NAME = 'params/layer/kernel'


def network(density, shape=(3, 3, 8, 40), seed=0):
  """A kernel with zeros, -0.0 among them, and what stays as it is."""
  rng = np.random.default_rng(seed)
  w = rng.standard_normal(shape, np.float32)
  w *= rng.random(shape) < density  # a negative weight becomes -0.0
  norm = {'scale': rng.standard_normal(40, np.float32), 'bias': w.ravel()[:40]}
  return {
    'params': {'layer': {'kernel': w}, 'norm': norm, 'zeta': np.float32(2)},
    'batch_stats': {'norm': {'var': np.zeros(40, np.float32)}},
  }


def kernel(variables):
  return variables['params']['layer']['kernel']


def bits(variables):
  return {n: a.tobytes() for n, a in dense_file.flatten(variables).items()}


def with_kernel(variables, w):
  return variables | {
    'params': variables['params'] | {'layer': {'kernel': w}},
  }


def rounded(w, values):
  """What a file of these values should give, computed apart from it."""
  if values == 'bfloat16':
    w = np.asarray(jnp.asarray(w, jnp.bfloat16), np.float32)
  return w + np.float32(0)  # -0.0 as 0.0


@pytest.mark.parametrize('values', ['float32', 'bfloat16'])
@pytest.mark.parametrize('density', [0, 0.001, 0.02, 0.1, 0.5, 0.99])
def test_what_is_written_is_read_bit_for_bit(density, values, tmp_path):
  before = network(density)
  path = tmp_path / 'a.safetensors'
  sparse_file.write(path, before, values)
  metadata, after = sparse_file.read(path)
  assert metadata['shapes'] == {NAME: (3, 3, 8, 40)}
  assert (kernel(before) == 0).any()
  expected = with_kernel(before, rounded(kernel(before), values))
  assert bits(after) == bits(expected)


@pytest.mark.parametrize('values', sparse_file.VALUES)
@pytest.mark.parametrize('seed', range(4))
def test_writing_again_gives_the_same_bytes(values, seed, tmp_path):
  first, second = tmp_path / '1.safetensors', tmp_path / '2.safetensors'
  before = network(0.2, (1, 5, 4, 2000), seed)  # a scale for each of 2,000
  before['params']['layer']['kernel'] *= np.float32(10.0**seed)
  sparse_file.write(first, before, values, {'of': [1, 'b'], 'a': None})
  _, after = sparse_file.read(first)
  sparse_file.write(second, after, values, {'a': None, 'of': [1, 'b']})
  assert first.read_bytes() == second.read_bytes()


def test_int8_is_off_by_half_a_step_of_its_channel(tmp_path):
  w = kernel(network(0.3))
  w[..., 0] = 0
  w[..., 1] *= np.float32(1e-42)  # too small for a scale: zero
  w[..., 2] *= np.float32(1e20)
  path = tmp_path / 'a.safetensors'
  sparse_file.write(path, {'params': {'layer': {'kernel': w}}}, 'int8')
  q = kernel(sparse_file.read(path)[1])
  largest = np.abs(w).max(axis=(0, 1, 2))
  off = np.abs(q - w).max(axis=(0, 1, 2))
  assert (q[..., :2] == 0).all() and (q[..., 2] != 0).any()
  assert (off[2:] <= largest[2:] / 254 * (1 + 1e-4)).all()
  assert (off[2:] > largest[2:] / 300).any()  # as it is said to be
  assert len(np.unique(q[..., 5])) > 10
  relative, mean = sparse_file.rounding(
    {'params': {'layer': {'kernel': w[..., 3:]}}},
    {'params': {'layer': {'kernel': q[..., 3:]}}},
  )
  assert relative == pytest.approx(np.max(off[3:] / largest[3:]))
  assert 0 < mean < relative * 4


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_gaps_around_the_largest_number(dtype):
  full = np.iinfo(dtype).max
  steps = [1, full - 1, full, full + 1, full + 2, 2 * full, 3 * full + 7, 1]
  for at in (np.cumsum(steps), np.cumsum(steps) - 1, np.array([], int)):
    gaps = sparse_file._gaps(at, np.dtype(dtype))
    assert gaps.dtype == dtype
    np.testing.assert_array_equal(sparse_file._places(gaps), at)


@pytest.mark.parametrize(
  ('density', 'part', 'dtype'),
  [(0.5, 'mask', np.uint8), (0.05, 'gaps', np.uint8), (2e-4, 'gaps', '<u2')],
)
def test_the_smallest_layout_is_taken(density, part, dtype, tmp_path):
  path = tmp_path / 'a.safetensors'
  sparse_file.write(path, network(density, (1, 1, 500, 400)))
  arrays = files.read(path)
  assert arrays[f'{NAME}:{part}'].dtype == dtype
  assert not {f'{NAME}:mask', f'{NAME}:gaps'} - {f'{NAME}:{part}'} & {*arrays}


def test_a_kernel_without_zeros_stays_as_it_is(tmp_path):
  path = tmp_path / 'a.safetensors'
  before = with_kernel(network(1), np.ones((2, 3), np.float32) / 3)
  sparse_file.write(path, before, 'int8')
  assert bits(sparse_file.read(path)[1]) == bits(before)


@pytest.mark.parametrize(('zeros', 'most'), [(0.9, 0.15), (0.99, 0.03)])
def test_a_whole_network_is_as_small_as_promised(zeros, most):
  """Norms included, shrunken as little as is quick; writing is exact, too."""
  variables = sizes.draw('resnet50', stage_sizes=(1, 1), width=64)
  shares = dict.fromkeys(sizes.shapes_of(variables), zeros)
  found = sizes.measure(sizes.prune(variables, shares))
  assert found['sparsity'] == pytest.approx(zeros, abs=1e-4)
  assert most / 2 < found['float32'] / found['dense'] < most
  assert found['float32'] > found['bfloat16']
  assert found['float32'] > found['int8']


def test_the_recorded_sizes_are_within_what_was_asked_for():
  text = (ROOT / 'benchmarks/results/sizes.json').read_text()
  rows = json.loads(text)
  share = {
    (row['model'], row['asked']): row['float32'] / row['dense'] for row in rows
  }
  for model in sizes.MODELS:
    assert share[model, 0.9] <= 0.15 and share[model, 0.99] <= 0.03
  assert sizes.table(rows) in (ROOT / 'docs/export.md').read_text()


@pytest.mark.parametrize('values', sparse_file.VALUES)
@pytest.mark.parametrize('density', [2e-4, 0.05, 0.5])
def test_the_reader_in_the_docs(density, values, tmp_path):
  (program,) = re.findall(
    r'```python\n(import json, math\n.*?)```',
    (ROOT / 'docs/export.md').read_text(),
    re.DOTALL,
  )
  namespace = {}
  exec(program, namespace)
  path = tmp_path / 'a.safetensors'
  before = network(density, (1, 1, 500, 40))
  sparse_file.write(path, before, values, {'arch': 'mine'})
  about, arrays = namespace['read'](path)
  assert about['arch'] == 'mine' and about['values'] == values
  expected = dense_file.flatten(sparse_file.read(path)[1])
  assert arrays.keys() == expected.keys()
  for name, array in arrays.items():
    np.testing.assert_array_equal(array, expected[name], strict=True)


def haiku(w):
  return {'net/~/linear': {'w': w, 'b': np.zeros(9, np.float32)}}


def nnx_state(w):
  layer = nnx.Linear(40, 9, rngs=nnx.Rngs(0))
  layer.kernel[...] = w
  return nnx.state(layer)


@pytest.mark.parametrize('tree', [haiku, nnx_state])
def test_any_tree_of_weights(tree, tmp_path):
  rng = np.random.default_rng(0)
  w = rng.standard_normal((40, 9), np.float32) * (rng.random((40, 9)) < 0.1)
  before = tree(w + 0)
  path = tmp_path / 'a.safetensors'
  sparse_file.write(path, before)
  metadata, after = sparse_file.read(path)
  (name,) = metadata['shapes']
  assert bits(after) == bits(before)
  if tree is haiku:  # names that hold a / come back whole
    assert after.keys() == before.keys()
  sparse_file.write_masks(path, before)
  (mask,) = sparse_file.read_masks(path)[1].values()
  np.testing.assert_array_equal(mask, w != 0)


def test_masks(tmp_path):
  path = tmp_path / 'masks.safetensors'
  before = network(0.3)
  sparse_file.write_masks(path, before, {'arch': 'mine'})
  metadata, masks = sparse_file.read_masks(path)
  assert metadata['arch'] == 'mine' and [*masks] == ['layer']
  np.testing.assert_array_equal(
    masks['layer'], kernel(before) != 0, strict=True
  )
  assert path.stat().st_size < kernel(before).size / 8 + 600


def test_no_changed_byte_goes_unnoticed(tmp_path):
  path = tmp_path / 'a.safetensors'
  sparse_file.write(path, network(0.1, (4, 40)), 'int8', {'arch': 'mine'})
  whole = path.read_bytes()
  _, expected = sparse_file.read(path)
  rng = np.random.default_rng(0)
  for place in [0, 3, 8, *rng.integers(8, len(whole), 150)]:
    data = bytearray(whole)
    data[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)
    try:
      _, found = sparse_file.read(path)
    except ValueError as error:
      assert '\n' not in str(error) and str(path) in str(error)
    else:  # as a blank of the header's end may change
      assert bits(found) == bits(expected)
      assert whole[place : place + 1] == b' '
  for length in (0, 4, 100, len(whole) // 2, len(whole) - 1):
    path.write_bytes(whole[:length])
    with pytest.raises(ValueError, match='must be a .safetensors file'):
      sparse_file.read(path)


def test_a_checksum_that_is_wrong(tmp_path):
  path = tmp_path / 'a.safetensors'
  sparse_file.write(path, network(0.1))
  found = files.content(path)
  found.arrays[f'{NAME}:values'] = found.arrays[f'{NAME}:values'] * 2
  files.write(path, found.arrays, found.metadata)
  with pytest.raises(ValueError, match='a.safetensors is damaged.*checksum'):
    sparse_file.read(path)


@pytest.mark.parametrize(
  'change',
  [
    {':values': None},
    {':mask': None},
    {':values': np.ones(1, np.float32)},
    {':mask': np.ones(1, np.uint8)},
    {':mask': None, ':gaps': np.full(5, 200, np.uint8)},
    {':scale': np.ones((3, 7), np.float32)},
  ],
  ids=str,
)
def test_parts_that_do_not_fit(change, tmp_path):
  """Of another program: the checksum is right, the content is not."""
  path = tmp_path / 'a.safetensors'
  arrays = {
    ':values': np.ones(5, np.float32),
    ':mask': np.packbits([1] * 5 + [0] * 7, bitorder='little'),
  }
  arrays = {f'{NAME}{k}': v for k, v in arrays.items()}
  shapes = {'values': 'float32', 'shapes': {NAME: [3, 4]}}
  dense_file.write_sealed(path, 'sparse', arrays, shapes)
  assert kernel(sparse_file.read(path)[1]).sum() == 5
  arrays |= {f'{NAME}{k}': v for k, v in change.items()}
  arrays = {k: v for k, v in arrays.items() if v is not None}
  dense_file.write_sealed(path, 'sparse', arrays, shapes)
  with pytest.raises(ValueError, match=f'{NAME} of shape .3, 4., but they do'):
    sparse_file.read(path)


def test_what_cannot_be_written_or_read(tmp_path, monkeypatch):
  path = tmp_path / 'a.safetensors'
  with pytest.raises(ValueError, match="float32, bfloat16, int8; got 'int4'"):
    sparse_file.write(path, network(0.1), 'int4')
  for wrong in (np.float32([[0, np.nan]]), np.float64([[0, 1]])):
    with pytest.raises(ValueError, match=f'{NAME} must be finite float32'):
      sparse_file.write(path, with_kernel(network(1), wrong))
  assert not path.exists()
  with pytest.raises(FileNotFoundError, match='no such file'):
    sparse_file.read(path)
  files.write(path, {'a': np.ones(2)})
  with pytest.raises(ValueError, match='must be a sparse file.*none of its'):
    sparse_file.read(path)
  dense_file.write(path, network(0.1))
  with pytest.raises(ValueError, match='a sparse file of .*but is a dense one'):
    sparse_file.read(path)
  with monkeypatch.context() as patch:
    patch.setattr(dense_file, 'VERSION', 2)
    dense_file.write(path, network(0.1))
  with pytest.raises(ValueError, match='version 2 of the dense format'):
    dense_file.read(path)
