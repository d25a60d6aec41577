"""The page of several runs, and both pages in a real browser."""

import json
import re
from xml.etree import ElementTree

import pages
import pytest

from str_jax.training import page, published, runs, runs_page

SVG = '{http://www.w3.org/2000/svg}'
RESNET = [f'stage{i // 14 + 1}_block{i}/conv{i % 3}' for i in range(54)]


def settings(method='st3', seed=0, **changed):
  return {'seed': seed, 'method': {'name': method, **changed}}


def leave(root, name, method='st3', seed=0, nonzero=50, **changed):
  config = settings(method, seed, sparsity=nonzero)
  layers = [
    pages.layer(layer, nonzero=nonzero, threshold=0.01) for layer in pages.NAMES
  ]
  return pages.leave(
    root / name,
    [pages.train(50), pages.train(100)],
    **{
      'config': config,
      'method': f'{method.upper()}()',
      'layers': layers,
      'nonzero': 3 * nonzero,
      'sparsity': 1 - nonzero / 200,
      'flops': 192 * nonzero,
      **changed,
    },
  )


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  root = tmp_path_factory.mktemp('runs')
  (root / 'going').mkdir()
  (root / 'going' / 'config.json').write_text('{}')
  return [
    leave(root, 'a0', top1=0.9),
    leave(root, 'b0', nonzero=10, top1=0.8),
    leave(root, 'a1', seed=1, top1=0.94),
    leave(root, 'g0', 'gmp', top1=0.85, nonzero=4),
    leave(root, 'none', 'dense', nonzero=200, top1=None),
    root / 'going',
  ]


@pytest.fixture(scope='module')
def text(folders):
  out = folders[0].parent / 'runs.html'
  assert runs_page.write(folders, out) == out
  return out.read_text(encoding='utf-8')


@pytest.fixture(scope='module')
def tree(text):
  return ElementTree.fromstring(text.removeprefix('<!DOCTYPE html>'))


def rows(table):
  return [[cell.text or '' for cell in row] for row in table.iter('tr')]


def test_seeds_stand_together_with_mean_and_deviation(tree):
  table, heat = tree.iter('table')
  shown = [row[:2] + [row[2], row[4], row[10], row[11]] for row in rows(table)]
  assert shown[1:] == [
    ['1', 'ST-3', '75.00%', '90.00%', '0', 'a0'],
    ['2', 'ST-3', '75.00%', '94.00%', '1', 'a1'],
    ['mean', 'ST-3', '75.00%', '92.00%', '2 runs', ''],
    ['3', 'ST-3', '95.00%', '80.00%', '0', 'b0'],
    ['4', 'GMP', '98.00%', '85.00%', '0', 'g0'],
    ['5', 'dense', '0.00%', '–', '0', 'none'],
  ]
  assert rows(table)[3][3:6:2] == ['0.00', '2.83']  # of 90 and 94, n - 1
  assert rows(heat)[0] == ['Layer', *'12345']
  assert rows(heat)[1][1:] == ['75.0', '75.0', '95.0', '98.0', '0']


def test_says_what_is_not_drawn_and_why(text, tree):
  note = tree.find('.//p[@class="note"]').text
  assert 'Not finished and left out: going.' in note
  assert 'Not evaluated, so without a point: none.' in note
  assert 'No published points' in text and ', published' not in text


def test_one_points_at_a_run_and_reads_its_numbers(tree):
  titles = [element.text for element in tree.iter(f'{SVG}title')]
  assert titles[0] == 'a0: 90.00%, 75.00% zeros, 9,600 multiply-adds, ST3()'
  assert len(titles) == 2 * 4 and 'nan' not in ''.join(titles)
  cells = [cell.get('title') for cell in tree.iter('td') if cell.get('title')]
  assert 'b0, stem: 95.00% zeros, 10 of 200 weights kept' in cells


def test_thresholds_are_drawn_for_every_run(tree):
  captions = [caption.find('b').text for caption in tree.iter('figcaption')]
  assert captions[2:] == ['1.', '2.', '3.', '4.', '5.']


def test_published_points_where_network_and_data_match(tmp_path):
  network = {
    'model': 'resnet50',
    'weights': 25_502_912,
    'dense_flops': 4_089_184_256,
    'top1': 0.75,
  }
  ours = [
    runs.Run(
      name,
      pages.summary(dataset=dataset, config=settings('str'), **network),
      [],
    )
    for name, dataset in (('a', 'imagenet2012'), ('b', 'cifar10'))
  ]
  text = runs_page.text(ours, [])
  imagenet, cifar = text.split('<h2>Accuracy on ')[1:]
  assert 'STR, published: 74.31% at 90.23% zeros (STR (ICML 2020))' in imagenet
  assert 'ST-3 sigma, published' in imagenet and 'Hollow' in imagenet
  assert ', published' not in cifar and 'No published points' in cifar
  assert not published.points('resnet50', 'imagenet2012', 10**9)  # 112 x 112
  assert len(published.points('mobilenet_v1', 'imagenet2012', 568740352)) == 9


def test_a_field_that_came_later_makes_no_other_settings(tmp_path):
  older, newer = settings(seed=1), settings() | {'new': None}
  read, _ = runs.read(
    [
      leave(tmp_path, 'a', config=older),
      leave(tmp_path, 'b', config=newer | {'num_workers': 4}),
      leave(tmp_path, 'c', config=settings(hard=True)),
    ]
  )
  assert [len(group) for group in runs.groups(read)] == [2, 1]


def test_networks_pruned_elsewhere_are_no_seeds_of_each_other(tmp_path):
  frozen, came = {'config': settings('frozen')}, {'steps': 0}
  read, _ = runs.read(
    [
      leave(tmp_path, 'snap-0.75', **frozen),
      leave(tmp_path, 'snap-0.95', nonzero=10, **frozen),
      leave(tmp_path, 'file', config=settings(), **came),
      leave(tmp_path, 'other', nonzero=10, config=settings(), **came),
    ]
  )
  assert [len(group) for group in runs.groups(read)] == [1, 1, 1, 1]


def test_what_makes_runs_hard_to_compare_is_said(tmp_path):
  wider = leave(tmp_path, 'b', weights=1200, dense_flops=76800)
  _, notes = runs.read(
    [leave(tmp_path, 'a'), wider, leave(tmp_path, 'c', dataset='cifar10')]
    + [leave(tmp_path, 'd')]
  )
  said = ' '.join(notes)
  assert 'convnet with 600 weights and 38,400' in said
  assert 'convnet with 1,200 weights and 76,800' in said
  assert '2 data sets, each with pictures of its own: digits, cifar10' in said
  assert 'Of a, d some have the same settings and the same seed' in said


@pytest.mark.parametrize(
  ('names', 'error', 'said'),
  [
    (['a', 'nothing'], FileNotFoundError, 'nothing is no run: it has neither'),
    (['a', 'a/../a'], ValueError, 'a folder is named twice'),
    (['going'], ValueError, r'no run is finished \(going\)'),
    ([], ValueError, 'no run is finished'),
  ],
)
def test_mistakes_are_one_sentence(tmp_path, names, error, said):
  leave(tmp_path, 'a')
  (tmp_path / 'going').mkdir()
  (tmp_path / 'going' / 'config.json').write_text('{}')
  with pytest.raises(error, match=said):
    runs_page.write([tmp_path / name for name in names], tmp_path / 'o.html')
  assert not (tmp_path / 'o.html').exists()


def test_needs_no_other_file(text, tree):
  ids = [element.get('id') for element in tree.iter() if element.get('id')]
  assert len(ids) == len(set(ids)) > 100
  assert set(re.findall(r'url\(#(.*?)\)', text)) <= set(ids)
  assert text.count('url(') == text.count('url(#')
  assert "default-src 'none'" in text and '<script' not in text


@pytest.fixture(scope='module')
def large(tmp_path_factory):
  """Both pages of runs with ResNet50's 54 layers, and of long names."""
  root = tmp_path_factory.mktemp('large')
  layers = [pages.layer(name) for name in RESNET]
  made = [
    pages.leave(
      root / f'str-with-a-long-name-of-its-folder-{seed}',
      [pages.train(step, RESNET) for step in (50, 100, 150)],
      layers=layers,
      config=settings('str', seed),
      device='a device with ' + 'averylongname' * 9,
      model='resnet50',
      weights=25_502_912,
      dense_flops=4_089_184_256,
      dataset='imagenet2012',
      flops=600_000_000 + seed,
    )
    for seed in range(2)
  ]
  both = page.write(made[0]), runs_page.write(made, root / 'runs.html')
  return [path.read_text(encoding='utf-8') for path in both]


@pytest.mark.skipif(
  pages.BROWSER is None, reason='no Chromium here: no page was rendered'
)
@pytest.mark.parametrize('dark', [False, True])
def test_a_browser_shows_it_whole_in_both_widths(large, text, dark, tmp_path):
  faults, printed = pages.look(tmp_path, [*large, text], dark)
  assert faults == [[]] * 6, json.dumps(faults, indent=1)
  assert 'CONSOLE' not in printed
