"""Paths: patterns that pick weights, and the table of what they pick."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import str_jax
from str_jax.paths import matching, named_leaves, select

LAYER = {'kernel': jnp.ones((2, 3)), 'bias': jnp.zeros(3)}
TREE = {
  'encoder': {'block1': {'query': LAYER, 'up': LAYER}, 'norm': LAYER},
  'head': LAYER,
  'kernel': jnp.ones(5),
}


def picked(*patterns, exclude=()):
  paths = select(TREE, matching(*patterns, exclude=exclude)).paths
  return {'/'.join(path) for path in paths}


@pytest.mark.parametrize(
  ('patterns', 'expected'),
  [
    ('kernel', 'kernel'),
    ('*/kernel', 'head/kernel'),
    ('head/**', 'head/kernel head/bias'),
    ('**/query/**', 'encoder/block1/query/kernel encoder/block1/query/bias'),
    ('encoder/*/kernel', 'encoder/norm/kernel'),
    (
      'encoder/**/[qu]*/kernel',
      'encoder/block1/query/kernel encoder/block1/up/kernel',
    ),
    ('head/?ernel kernel', 'head/kernel kernel'),
  ],
)
def test_patterns(patterns, expected):
  assert picked(*patterns.split()) == set(expected.split())


def test_two_stars_are_any_number_of_levels():
  every = {'/'.join(path) for path in named_leaves(TREE)}
  assert picked('**') == picked('**/**') == every
  kernels = {path for path in every if path.endswith('kernel')}
  assert picked('**/kernel') == kernels
  assert picked('**/kernel', exclude='encoder/**') == {'head/kernel', 'kernel'}
  assert picked('**', exclude=['**/bias']) == kernels


def test_letters_are_told_apart_by_case():
  assert matching('Dense_*')(('Dense_0',), None)
  assert not matching('dense_*')(('Dense_0',), None)


@pytest.mark.parametrize(
  ('patterns', 'exclude', 'message'),
  [
    (('**/kernel', 'haed/*'), (), "'haed/\\*' should .* near it are .*head/"),
    (('head/kernal',), (), 'near it are head/kernel'),
    (('**/kernel',), ('encoder/block2/**',), 'encoder/block2/'),
    (('Head/**',), (), "'Head/"),
    (('zzz',), (), 'matches none. One'),
  ],
)
def test_each_pattern_has_to_match(patterns, exclude, message):
  method = str_jax.methods.create('str')
  where = matching(*patterns, exclude=exclude)
  for tree in (TREE, {'params': TREE}):
    with pytest.raises(ValueError, match=message):
      str_jax.add_thresholds(method, tree, where)


@pytest.mark.parametrize('patterns', [(), ('',), (3,), (['a'],)])
def test_patterns_are_strings(patterns):
  with pytest.raises(ValueError, match='matching wants patterns'):
    matching(*patterns)


def test_nothing_left_is_an_error():
  where = matching('head/*', exclude='head/**')
  with pytest.raises(ValueError, match='matched none of these leaves'):
    str_jax.add_thresholds(str_jax.methods.create('str'), TREE, where)


@pytest.mark.parametrize(
  ('leaf', 'what'),
  [
    (jnp.arange(3), 'an array of int32 of shape'),
    (jnp.ones((0, 3)), r'an array of float32 of shape \(0, 3\)'),
    (np.ones(3, bool), 'an array of bool'),
    (1.5, 'a float: leave it out'),
    (jax.nn.relu, 'should be an array'),
  ],
)
def test_what_is_no_array_of_floats_is_refused(leaf, what):
  with pytest.raises(ValueError, match=f'where= picks layers/0, .*{what}'):
    select({'layers': [leaf]}, lambda path, leaf: True)


def test_the_table_sums_up():
  tree = {'params': {'a': {'kernel': np.ones((30, 40), 'f'), 'f': jax.nn.relu}}}
  text = str(select(tree))
  head, function, kernel, total = (line.split() for line in text.splitlines())
  assert head == ['selected', 'path', 'shape', 'weights']
  assert function == ['-', 'a/f', 'no', 'array', '0']
  assert kernel == ['yes', 'a/kernel', '(30,', '40)', '1,200']
  assert total == 'total 1 of 2 leaves 1,200 of 1,200'.split()
  assert len({len(line) for line in text.splitlines()}) == 1
  shapes = jax.eval_shape(lambda: TREE)
  assert str(select(shapes)) == str(select(TREE))


# As Haiku names its modules: with a / inside of a level.
HAIKU = {
  'net/~/first': {'w': np.ones((2, 3), 'f'), 'b': np.ones(3, 'f')},
  'net/~/head': {'w': np.ones((3, 4), 'f')},
}


@pytest.mark.parametrize(
  ('where', 'expected'),
  [
    ('**/w', ['net/~/first', 'net/~/head']),
    (['net/~/first/w', 'net/~/head/w'], ['net/~/first', 'net/~/head']),
    (matching('**/w', exclude='net/~/head/w'), ['net/~/first']),
    (matching('**/w', exclude='**/head/**'), ['net/~/first']),
  ],
)
def test_names_may_hold_a_slash(where, expected):
  assert [path for path, _ in select(HAIKU, where).paths] == expected


def test_what_is_left_out_counts_too():
  """Weights of the same name as those picked, a layer that stays dense."""
  method = str_jax.methods.create('st3', target=1 / 6)
  variables = str_jax.add_thresholds(method, HAIKU, 'net/~/first/w')
  w = np.arange(1, 7, dtype='f').reshape(2, 3)
  variables['params'] = HAIKU | {'net/~/first': {'w': w, 'b': np.ones(3, 'f')}}
  variables = str_jax.update_thresholds(method, variables, 1)
  report = str_jax.report.sparsity_report(method, variables)
  assert [row.weights for row in report.rows] == [6, 12]
  assert [row.nonzero for row in report.rows] == [3, 12]
