"""The page of a run: what it says, and that a browser needs nothing else."""

import html
import json
import math
import re
import shutil
import subprocess
from xml.etree import ElementTree

import pytest

from str_jax.training import page

BROWSER = next(
  filter(None, map(shutil.which, ('chromium', 'chromium-browser'))), None
)
NAMES = ('stem', 'block/<conv>', 'head$a_b$')


def layer(name, weights=200, nonzero=50, threshold=0.021):
  return {
    'name': name,
    'shape': [weights // 10, 10],
    'weights': weights,
    'nonzero': nonzero,
    'sparsity': 1 - nonzero / weights,
    'threshold': threshold,
    'dense_flops': 64 * weights,
    'flops': 64 * nonzero,
  }


def summary(**changed):
  return {
    'config': {'seed': 7, 'optim': {'learning_rate': 0.125, 'name': '<sgd>'}},
    'command': 'python main.py --config=configs/digits.py:str',
    'config_name': 'digits',
    'variant': 'str',
    'method': 'STR(init_value=-5.0)',
    'model': 'convnet',
    'dataset': 'digits',
    'note': '',
    'steps': 1200,
    'top1': 0.9811,
    'best_top1': 0.9833,
    'best_step': 1100,
    'eval_loss': 0.07,
    'sparsity': 0.75,
    'weights': 600,
    'nonzero': 150,
    'dense_flops': 38400,
    'flops': 9600,
    'layers': [layer(name) for name in NAMES],
    'seconds': 21.3,
    'examples_per_second': 4100.0,
    'device': '2 x cpu',
    'versions': {'jax': '0.10.2'},
    **changed,
  }


def train(step, names=NAMES, **changed):
  return {
    'kind': 'train',
    'step': step,
    'loss': 1 / step,
    'accuracy': 0.5,
    'sparsity': 0.3,
    'layer_sparsity': dict.fromkeys(names, 0.3),
    'layer_threshold': dict.fromkeys(names, 0.01),
    **changed,
  }


def validation(step):
  return {'kind': 'validation', 'step': step, 'loss': 0.2, 'accuracy': 0.9}


RUN = [train(50), train(100), validation(100)]


def write(folder, metrics=RUN, tail='', **changed):
  (folder / 'summary.json').write_text(json.dumps(summary(**changed)))
  lines = ''.join(json.dumps(record) + '\n' for record in metrics)
  (folder / 'metrics.jsonl').write_text(lines + tail)
  path = page.write(folder)
  assert path == folder / 'report.html'
  assert not list(folder.glob('*.unfinished'))
  return path.read_text(encoding='utf-8')


def words(text):
  """All that a reader sees, and the tree of the page, which is also XML."""
  tree = ElementTree.fromstring(text.removeprefix('<!DOCTYPE html>'))
  return ' '.join(' '.join(tree.find('body').itertext()).split()), tree


def titles(tree):
  return [caption.find('b').text for caption in tree.iter('figcaption')]


def test_says_what_the_run_did(tmp_path):
  seen, tree = words(write(tmp_path, note='A note.'))
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


def test_rounds_of_pruning_stand_in_a_table(tmp_path):
  rounds = [
    {'sparsity': p, 'nonzero': n, 'top1': a, 'best_top1': None, 'seconds': 1.0}
    for p, n, a in ((0.0, 600, 0.9), (0.75, 150, 0.875))
  ]
  seen, _ = words(write(tmp_path, rounds=rounds))
  assert (
    'Round by round Round Sparsity Kept Test accuracy'
    ' 0 0.00% 600 90.00% 1 75.00% 150 87.50%'
  ) in seen
  assert 'Round by round' not in words(write(tmp_path))[0]


def test_needs_no_other_file(tmp_path):
  text = write(tmp_path)
  _, tree = words(text)
  ids = [element.get('id') for element in tree.iter() if element.get('id')]
  assert len(ids) == len(set(ids)) > 100
  for element in tree.iter():
    assert element.tag.rpartition('}')[2] not in ('script', 'link', 'image')
    for key, value in element.attrib.items():
      if key.rpartition('}')[2] in ('src', 'href', 'srcset', 'data'):
        assert value[0] == '#' and value[1:] in ids
  assert set(re.findall(r'url\(#(.*?)\)', text)) <= set(ids)
  assert text.count('url(') == text.count('url(#')
  assert '@import' not in text


def test_pictures_are_named_and_take_the_colours_of_the_page(tmp_path):
  text = write(tmp_path)
  _, tree = words(text)
  pictures = list(tree.iter('{http://www.w3.org/2000/svg}svg'))
  assert len(pictures) == 6
  for picture in pictures:
    assert picture.get('role') == 'img' and picture.get('aria-label')
    assert picture.get('viewBox') and not picture.get('width')
    drawn = ElementTree.tostring(picture, encoding='unicode')
    assert 'currentColor' in drawn
    assert '#000000' not in drawn and '#ffffff' not in drawn
  assert 'var(--validation)' in text
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


def test_same_files_give_the_same_page(tmp_path):
  assert write(tmp_path) == write(tmp_path)


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
      dense_flops=0,
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


def test_line_cut_by_a_kill_is_left_out(tmp_path):
  assert write(tmp_path, tail='{"kind": "tra') == write(tmp_path)


@pytest.mark.parametrize(
  ('file', 'text', 'error', 'said'),
  [
    ('summary.json', None, FileNotFoundError, 'summary.json is missing'),
    ('summary.json', '{"top1": 0.', ValueError, 'summary.json .* is damaged'),
    ('summary.json', '[]', ValueError, 'one JSON object'),
    ('summary.json', '{"model": "m"}', ValueError, "lacks 'dataset'"),
    ('metrics.jsonl', '{}\n{"ki\n{}\n', ValueError, 'line 2 .* is damaged'),
  ],
)
def test_damaged_input(tmp_path, file, text, error, said):
  write(tmp_path)
  (tmp_path / 'report.html').unlink()
  (tmp_path / file).unlink()
  if text is not None:
    (tmp_path / file).write_text(text)
  with pytest.raises(error, match=said):
    page.write(tmp_path)
  assert not (tmp_path / 'report.html').exists()


@pytest.mark.skipif(
  BROWSER is None, reason='no Chromium here: the page was not rendered'
)
def test_fits_a_phone_and_loads_nothing(tmp_path):
  name = 'stage/a_rather_long_name_of_a_layer/convolution'
  device = 'a device with ' + 'averylongname' * 9
  text = write(tmp_path, layers=[layer(name)], device=device)
  # In a frame, as a browser's own window may refuse to be this narrow.
  frame = tmp_path / 'frame.html'
  frame.write_text(f"""
    <iframe width="400" height="800" srcdoc="{html.escape(text)}"></iframe>
    <pre id="out"></pre>
    <script>onload = () => {{
      const inner = document.querySelector('iframe').contentWindow;
      const root = inner.document.documentElement;
      document.querySelector('#out').textContent = [
        root.clientWidth <= 400, root.scrollWidth - root.clientWidth,
        inner.document.querySelector('svg').getBoundingClientRect().width > 300,
        inner.performance.getEntriesByType('resource').length].join(' ');
    }}</script>""")
  flags = (
    '--headless --no-sandbox --disable-gpu --disable-quic --no-first-run'
    ' --disable-background-networking --disable-component-update'
    ' --disable-sync --enable-logging=stderr --dump-dom'
  )
  done = subprocess.run(
    [
      BROWSER,
      *flags.split(),
      f'--user-data-dir={tmp_path / "browser"}',
      frame.as_uri(),
    ],
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert '<pre id="out">true 0 true 0</pre>' in done.stdout
  assert 'CONSOLE' not in done.stderr
