"""The page of a run: what it says, and that it needs no other file."""

import math
import re
from xml.etree import ElementTree

import pytest
from pages import NAMES, layer, leave, train, validation

from str_jax.training import page

RUN = [train(50), train(100), validation(100)]


def write(folder, metrics=RUN, tail='', **changed):
  leave(folder, metrics, **changed)
  with (folder / 'metrics.jsonl').open('a') as file:
    file.write(tail)
  path = page.write(folder)
  assert path == folder / 'report.html'
  assert not list(folder.glob('*.unfinished'))
  return path.read_text(encoding='utf-8')


@pytest.fixture(scope='module')
def usual(tmp_path_factory):
  """A page as most are: drawing one is what these tests cost."""
  return write(tmp_path_factory.mktemp('usual'), note='A note.')


def words(text):
  """All that a reader sees, and the tree of the page, which is also XML."""
  tree = ElementTree.fromstring(text.removeprefix('<!DOCTYPE html>'))
  return ' '.join(' '.join(tree.find('body').itertext()).split()), tree


def titles(tree):
  return [caption.find('b').text for caption in tree.iter('figcaption')]


def test_says_what_the_run_did(usual):
  seen, tree = words(usual)
  for said in (
    'convnet on digits',
    'STR(init_value=-5.0)',
    'A note.',
    'Test accuracy 98.11% last checkpoint; 98.33% at step 1,100',
    'Sparsity 75.00%',
    'Weights kept 150 25.00% of 600',
    'FLOPs of dense 25.00% 9.6 k of 38.4 k',
    '1,200 steps in 21.3 seconds, 4,100 examples a second on 2 x cpu',
    'python main.py --config=configs/digits.py:str',
    'seed 7 optim learning_rate 0.125 name "<sgd>"',
    'jax "0.10.2"',
  ):
    assert said in seen
  assert titles(tree) == [
    'Sparsity by layer.',
    'FLOPs by layer.',
    'Thresholds.',
    'Sparsity.',
    'Loss.',
    'Accuracy.',
  ]
  rows = [[cell.text for cell in row] for row in tree.iter('tr')]
  assert rows[1] == 'stem|20 × 10|200|50|75.00%|0.021|3,200|12,800'.split('|')
  assert [row[0] for row in rows] == ['Layer', *NAMES, 'All']
  assert rows[-1][2:4] == ['600', '150']


def test_rounds_of_pruning_stand_in_a_table(usual, tmp_path):
  rounds = [
    {'sparsity': p, 'nonzero': n, 'top1': a, 'best_top1': None, 'seconds': 1.0}
    for p, n, a in ((0.0, 600, 0.9), (0.75, 150, 0.875))
  ]
  seen, _ = words(write(tmp_path, rounds=rounds))
  assert (
    'Round by round Round Sparsity Kept Test accuracy'
    ' 0 0.00% 600 90.00% 1 75.00% 150 87.50%'
  ) in seen
  assert 'Round by round' not in words(usual)[0]


def test_needs_no_other_file(usual):
  _, tree = words(usual)
  ids = [element.get('id') for element in tree.iter() if element.get('id')]
  assert len(ids) == len(set(ids)) > 100
  for element in tree.iter():
    assert element.tag.rpartition('}')[2] not in ('script', 'link', 'image')
    for key, value in element.attrib.items():
      if key.rpartition('}')[2] in ('src', 'href', 'srcset', 'data'):
        assert value[0] == '#' and value[1:] in ids
  assert set(re.findall(r'url\(#(.*?)\)', usual)) <= set(ids)
  assert usual.count('url(') == usual.count('url(#')
  assert '@import' not in usual


def test_pictures_are_named_and_take_the_colours_of_the_page(usual):
  _, tree = words(usual)
  pictures = list(tree.iter('{http://www.w3.org/2000/svg}svg'))
  assert len(pictures) == 6
  for picture in pictures:
    assert picture.get('role') == 'img' and picture.get('aria-label')
    assert picture.get('viewBox') and not picture.get('width')
    drawn = ElementTree.tostring(picture, encoding='unicode')
    assert 'currentColor' in drawn
    assert '#000000' not in drawn and '#ffffff' not in drawn
  assert 'var(--validation)' in usual
  assert tree.get('lang') == 'en'


def test_escapes_what_comes_from_the_files(tmp_path):
  evil = '<script>alert("&")</script>'
  text = write(
    tmp_path,
    [train(50, [evil])],
    **dict.fromkeys(
      'model dataset method note device config_name variant'.split(), evil
    ),
    layers=[layer(evil)],
    config={evil: evil, 'inner': {evil: [evil]}},
    versions={evil: evil},
  )
  assert '<script' not in text
  seen, _ = words(text)
  assert seen.count('alert(') >= 14


def test_same_files_give_the_same_page_without_a_line_cut_by_a_kill(
  usual, tmp_path
):
  assert write(tmp_path, tail='{"kind": "tra', note='A note.') == usual


def test_dense_run_of_one_logged_step(tmp_path):
  seen, tree = words(
    write(
      tmp_path,
      [train(1200, layer_threshold={})],
      variant='',
      best_top1=None,
      best_step=None,
      layers=[layer(name, nonzero=200, threshold=None) for name in NAMES],
    )
  )
  assert 'No layer has a threshold' in seen
  assert 'Thresholds.' not in titles(tree)
  assert 'best on validation' not in seen


def test_run_without_a_logged_step(tmp_path):
  seen, tree = words(write(tmp_path, []))
  assert 'ended before its first logged step' in seen
  assert len(titles(tree)) == 2


def test_nan_is_left_out(tmp_path):
  gone = dict.fromkeys(NAMES, math.nan)
  bad = train(100, loss=math.nan, accuracy=math.inf, layer_threshold=gone)
  holes = {**layer('hole'), 'sparsity': math.nan, 'flops': None}
  seen, _ = words(
    write(
      tmp_path,
      [train(50), bad],
      layers=[holes],
      top1=math.nan,
      eval_loss=math.nan,
      dense_flops=math.nan,
    )
  )
  assert 'Test accuracy –' in seen and 'FLOPs of dense –' in seen
  assert 'nan' not in seen


def test_many_layers_and_many_steps(tmp_path):
  names = [f'stage{i // 10}/unit{i % 10}/convolution' for i in range(54)]
  metrics = [train(step, names) for step in range(1, 902)]
  layers = [layer(name) for name in names]
  text = write(tmp_path, metrics, layers=layers)
  assert 'one in 3 is drawn' in text
  assert len(text) < 500_000
  _, tree = words(text)
  rows = [row[0].text for row in tree.iter('tr')]
  assert rows[1:-1] == names


@pytest.mark.parametrize(
  ('file', 'text', 'error', 'said'),
  [
    ('summary.json', None, FileNotFoundError, 'summary.json is missing'),
    ('summary.json', '{"top1": 0.', ValueError, 'summary.json .* is damaged'),
    ('summary.json', '[]', ValueError, 'one JSON object'),
    ('summary.json', '{"model": "m"}', ValueError, "lacks 'dataset'"),
    ('metrics.jsonl', '{}\n{"ki\n{}\n', ValueError, 'line 2 .* is damaged'),
    (
      'metrics.jsonl',
      '{"kind": "train", "step": "50"}\n',
      ValueError,
      r"^step in record 1 of .*metrics.jsonl should be a number, got '50'",
    ),
    (
      'metrics.jsonl',
      '{"kind": "train", "step": 1, "layer_threshold": [1]}\n',
      ValueError,
      r'^layer_threshold in record 1 .* should be an object, got \[1\]',
    ),
  ],
)
def test_damaged_input(tmp_path, file, text, error, said):
  leave(tmp_path, RUN)
  (tmp_path / file).unlink()
  if text is not None:
    (tmp_path / file).write_text(text)
  with pytest.raises(error, match=said):
    page.write(tmp_path)
  assert not (tmp_path / 'report.html').exists()


@pytest.mark.parametrize(
  ('name', 'value', 'said'),
  [
    ('top1', '0.9', "a number or null, got '0.9'"),
    ('sparsity', True, 'a number, got True'),
    ('weights', 0, 'a whole number above 0, got 0'),
    ('flops', 10**400, 'a number, got 1000'),
    ('dense_flops', 0, 'a number other than 0, got 0'),
    ('config', [], r'an object, got \[\]'),
    ('command', None, 'text, got None'),
    ('layers', {}, r'a list, got \{\}'),
    ('layers', [7], r'an object, got 7'),
    (
      'layers',
      [layer('a') | {'shape': 'x'}],
      "a list of whole numbers, got 'x",
    ),
    ('rounds', [[]], r'an object, got \[\]'),
    ('target', 0.9, 'an object, got 0.9'),
  ],
)
def test_a_field_of_another_kind_is_one_sentence(tmp_path, name, value, said):
  with pytest.raises(ValueError, match=f'^{name}.* should be {said}'):
    write(tmp_path, **{name: value})
  assert not (tmp_path / 'report.html').exists()
