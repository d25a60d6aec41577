"""Models that know nothing of str_jax: docs/own_model.md, and what it says."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import METHODS
from flax import linen as nn

import str_jax
from str_jax.paths import matching, named_leaves

PAGE = pathlib.Path(__file__).parent.parent / 'docs' / 'own_model.md'
SECTIONS = dict(
  re.findall(r'^## (.+?)\n(.*?)(?=^## |\Z)', PAGE.read_text(), re.M | re.S)
)


def run(section, namespace):
  """Runs a section's blocks, unless an earlier test did."""
  done = namespace.setdefault('done', set())
  if section in done:
    return
  done.add(section)
  blocks = re.findall(r'^```python\n(.*?)^```', SECTIONS[section], re.M | re.S)
  assert blocks
  for block in blocks:
    exec(compile(block, f'{PAGE.name}: {section}', 'exec'), namespace)


@pytest.fixture(scope='module')
def page():
  namespace = {'__name__': 'page'}
  run('Training', namespace)
  return namespace


def check(dense, sparse, selected):
  """Both methods left exact zeros in what was selected, and nowhere else."""
  raw = named_leaves(dense)
  for name, tree in sparse.items():
    out = named_leaves(tree)
    assert out.keys() == raw.keys()
    picked = [np.asarray(out[path]) for path in raw if selected(path)]
    zeros = sum((w == 0).sum() for w in picked)
    weights = sum(w.size for w in picked)
    assert all(w.any() for w in picked), name
    if name == 'ST-3':
      assert zeros == int((weights - 1) * 0.8) + 1
    assert 0.2 < zeros / weights < 0.99, name
    for path in raw:  # key's bias may be 0: the softmax takes it out
      dense_here = not selected(path) and path[-1] != 'bias'
      assert not dense_here or np.all(out[path] != 0), path


def test_a_linen_block_with_flax_s_attention(
  page, capsys, tmp_path, monkeypatch
):
  run('Asking for a sparsity', page)
  run("Flax Linen, with Flax's own layers", page)
  table = capsys.readouterr().out
  every = sum(
    w.size for p, w in named_leaves(page['dense']).items() if 'kernel' in p
  )
  head = page['dense']['params']['head']['kernel'].size
  picked = every - head
  for kept in (
    picked - int((picked - 1) * 0.9) - 1 + head,  # ST-3: of what was picked
    every - round(0.9 * every),  # with a target: of all kernels
    900,
  ):
    assert f', {kept} weights\n' in table
  assert re.search(r'\nyes +attention/query/kernel +\(16, 2, 8\) +256\n', table)
  assert re.search(r'\n- +head/kernel +\(16, 4\) +64\n', table)
  check(
    page['dense']['params'],
    {name: v['params'] for name, v in page['linen'].items()},
    lambda path: path[-1] == 'kernel' and path[0] != 'head',
  )
  apply = jax.jit(page['model'].apply)
  before = page['entropy'](apply(page['dense'], page['x']))
  for variables in page['linen'].values():
    assert page['entropy'](apply(variables, page['x'])) < 0.5 * before
  assert list(page['variables']['thresholds']) == ['embedding']
  np.testing.assert_array_equal(
    page['vectors'], page['params']['embedding'][:3]
  )
  raw = page['words']['params']['embedding'][:3]
  assert np.all(np.abs(page['vectors']) < np.abs(raw))
  monkeypatch.chdir(tmp_path)
  run('Save, export', page)
  for a, b in zip(
    jax.tree.leaves(page['again']), jax.tree.leaves(page['final']), strict=True
  ):
    np.testing.assert_array_equal(a, b)
  assert 'params/attention/query/kernel' in page['metadata']['shapes']


def test_masks(page):
  run("Flax Linen, with Flax's own layers", page)
  run('Masks', page)
  masks = named_leaves(page['masks'])
  assert {mask.dtype for mask in masks.values()} == {np.dtype(bool)}
  picked = [
    w for p, w in masks.items() if p[-1] == 'kernel' and 'head' not in p
  ]
  zeros = sum(int((~mask).sum()) for mask in picked)
  assert zeros == int((sum(mask.size for mask in picked) - 1) * 0.8) + 1


def test_a_network_for_the_trainer(page, monkeypatch):
  run("Flax Linen, with Flax's own layers", page)
  run('In the trainer', page)
  row = (page['Plain'], {'features': 16})
  monkeypatch.setitem(str_jax.models._MODELS, 'plain', row)
  method = str_jax.methods.create('str', target=0.5)
  model = str_jax.models.create(
    'plain', num_classes=3, method=method, features=4, first_layer_dense=True
  )
  variables = model.init(jax.random.key(0), jnp.ones((1, 8, 8, 1)))
  variables = str_jax.update_thresholds(method, variables, 1)
  report = str_jax.report.sparsity_report(method, variables)
  thresholds = {row.name: row.threshold is None for row in report.rows}
  assert thresholds == {'conv1': False, 'classifier': False, 'stem': True}
  assert report.nonzero == report.weights // 2


def test_a_dataclass(page):
  run('A pytree of weights', page)
  assert {type(w) for w in page['plain'].values()} == {page['Weights']}
  check(page['weights'], page['plain'], lambda path: path != ('bias',))
  before = page['entropy'](page['logits'](page['weights']))
  for weights in page['plain'].values():
    assert page['entropy'](page['logits'](weights)) < 0.7 * before


def test_an_equinox_model(page, tmp_path, monkeypatch, assert_trees_equal):
  pytest.importorskip('equinox', reason='Equinox is not installed')
  monkeypatch.chdir(tmp_path)
  run('Equinox', page)
  arrays, eqx = page['arrays'], page['eqx']
  sparse = {
    name: eqx.filter(net, eqx.is_inexact_array)
    for name, net in page['nets'].items()
  }
  check(arrays, sparse, lambda path: path[-1] == 'weight')
  net_loss = jax.jit(page['net_loss'])
  for name in sparse:
    assert net_loss(sparse[name]) < 0.5 * net_loss(arrays)
  again = eqx.filter(page['again'], eqx.is_inexact_array)
  assert_trees_equal(again, sparse['ST-3'])


def test_multiply_adds(page, capsys, tmp_path, monkeypatch):
  pytest.importorskip('equinox', reason='Equinox is not installed')
  monkeypatch.chdir(tmp_path)
  for section in (
    'Asking for a sparsity',
    "Flax Linen, with Flax's own layers",
    'Equinox',
    'Multiply-adds',
  ):
    run(section, page)
  printed = capsys.readouterr().out
  assert '| attention/query | 16x2x8 | 256 |' in printed
  report = page['report']
  sizes = {'0': 16 * 32, '1': 32 * 32, '2': 32 * 4}
  assert page['counts'] == {f'layers/{i}/weight': n for i, n in sizes.items()}
  limit = sum(sizes.values()) // 10
  assert limit - 2 <= report.flops <= limit
  assert f'\n{report.flops} of {report.dense_flops} multiply-adds' in printed


class Two(nn.Module):
  @nn.compact
  def __call__(self, x):
    self.param('embedding', nn.initializers.ones, (4, 3))
    return nn.Dense(2)(x)


def test_linen_refuses_what_is_no_kernel():
  variables = Two().init(jax.random.key(0), jnp.ones((1, 3)))
  with pytest.raises(ValueError, match='picks embedding: pick kernels alone'):
    str_jax.add_thresholds(METHODS['str'], variables, matching('embedding'))
  flat = str_jax.add_thresholds(
    METHODS['str'], variables['params'], matching('embedding')
  )
  out = str_jax.effective_params(METHODS['str'], flat)
  assert np.all(out['embedding'] < 1)
  np.testing.assert_array_equal(
    out['Dense_0']['kernel'], variables['params']['Dense_0']['kernel']
  )


def test_a_method_without_leaves_keeps_to_what_was_selected():
  weights = {'a': jnp.array([0.0, 1.0]), 'b': jnp.array([0.0, 2.0])}
  method = METHODS['frozen']
  variables = str_jax.add_thresholds(method, weights, matching('a'))
  (row,) = str_jax.report.sparsity_report(method, variables).rows
  assert (row.name, row.nonzero) == ('a', 1)

  def total(params):
    out = str_jax.effective_params(method, {**variables, 'params': params})
    return out['a'].sum() + out['b'].sum()

  gradient = jax.grad(total)(weights)
  assert gradient['a'].tolist() == [0.0, 1.0]
  assert gradient['b'].tolist() == [1.0, 1.0]
