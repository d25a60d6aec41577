"""Records that cannot be read, and workers that are killed."""

import itertools
import json
import multiprocessing
import os
import pickle
import struct
import sys
import time
import zlib
from pathlib import Path

import cloudpickle
import cv2
import numpy as np
import pytest
from array_record.python.array_record_data_source import (
  ArrayRecordDataSource,
)
from array_record.python.array_record_module import ArrayRecordWriter

from str_jax import data
from str_jax.data import sources
from str_jax.data.sources import Skip

# Worker processes do not find this module by its name.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

SIZE = 12
BAD = {'train': (3, 4, 17), 'test': (0, 19)}


class Records:
  """Twenty records, each an encoded image of its own brightness."""

  def __init__(self, bad=(), ending='.png', deadly=None):
    self._bad = bad
    self._ending = ending
    self._deadly = deadly  # kills the process that asks for it

  def __len__(self):
    return 20

  def __getitem__(self, index):
    if index == self._deadly:
      os.kill(os.getpid(), 9)
    image = np.full((SIZE, SIZE, 3), 10 * index, np.uint8)
    encoded = cv2.imencode(self._ending, image)[1].tobytes()
    if index in self._bad:
      encoded = encoded[: len(encoded) // 2]
    return {'image': encoded, 'label': index, 'id': f'img{index}'.encode()}


def make(train, test=None):
  return data.Dataset(
    name='twenty',
    num_classes=20,
    image_shape=(SIZE, SIZE, 3),
    mean=(0.0,) * 3,
    std=(1.0,) * 3,
    splits={'train': train, 'validation': None, 'test': test or train},
    train_transforms=(),
    eval_transforms=(),
  )


@pytest.fixture
def damaged():
  return make(*(Records(bad) for bad in BAD.values()))


def labels(batches, count):
  taken = itertools.islice(batches, count)
  return [batch['label'].tolist() for batch in taken]


def named(skip):
  lines = [json.loads(x) for x in Path(skip.file).read_text().splitlines()]
  return sorted((line['split'], line['index']) for line in lines)


def test_the_first_corrupt_record_stops_a_run(damaged):
  message = r'record \d+ of train \(id img\d+\) is not a readable image'
  with pytest.raises(ValueError, match=message):
    labels(data.train_batches(damaged, 4, seed=0), 5)
  with pytest.raises(ValueError, match=r'record 0 of test \(id img0\)'):
    labels(data.eval_batches(damaged, 'test', 4), 5)


def test_the_next_readable_record_takes_the_place(damaged, tmp_path):
  skip = Skip(3, str(tmp_path / 'corrupt.jsonl'))
  whole = labels(data.train_batches(make(Records()), 5, seed=1), 12)
  instead = {3: 5, 4: 5, 17: 18}
  expected = [[instead.get(x, x) for x in batch] for batch in whole]
  batches = data.train_batches(damaged, 5, seed=1, skip=skip)
  assert labels(batches, 12) == expected
  assert named(skip) == [('train', i) for i in BAD['train']]
  # From the middle, in workers that share the file: the same.
  batches = data.train_batches(
    damaged, 5, seed=1, skip=skip, start_step=3, num_workers=2
  )
  assert labels(batches, 9) == expected[3:]
  assert named(skip) == [('train', i) for i in BAD['train']]


def test_one_too_many_stops_the_run(damaged, tmp_path):
  skip = Skip(2, str(tmp_path / 'corrupt.jsonl'))
  message = f'3 records of train are corrupt, and 2 .* named in {skip.file}'
  with pytest.raises(ValueError, match=message):
    labels(data.train_batches(damaged, 5, seed=1, skip=skip), 4)
  assert named(skip) == [('train', i) for i in BAD['train']]
  with pytest.raises(ValueError, match=message):  # the file remembers them
    labels(data.train_batches(damaged, 5, seed=1, skip=skip), 4)


def test_where_nothing_can_be_read_the_run_ends(tmp_path):
  nothing = make(Records(range(20)))
  skip = Skip(20, str(tmp_path / 'corrupt.jsonl'))
  with pytest.raises(ValueError, match='is not a readable image'):
    next(data.train_batches(nothing, 5, seed=0, skip=skip))


def test_evaluation_gives_them_no_weight(damaged, tmp_path):
  skip = Skip(2, str(tmp_path / 'corrupt.jsonl'))
  batches = list(data.eval_batches(damaged, 'test', 8, skip=skip))
  assert {b['image'].shape for b in batches} == {(8, SIZE, SIZE, 3)}
  found = np.concatenate([b['label'] for b in batches])
  weight = np.concatenate([b['weight'] for b in batches])
  assert found[weight == 1].tolist() == list(range(1, 19))
  assert weight.dtype == np.float32 and weight.sum() == 18
  assert named(skip) == [('test', 0), ('test', 19)]  # not the train split's


def test_a_line_torn_by_a_kill_is_left_behind(tmp_path):
  skip = Skip(2, str(tmp_path / 'corrupt.jsonl'))
  Path(skip.file).write_text('{"split": "train", "ind')
  skip.name('train', 7, sources.CorruptRecord('why'))
  skip.name('train', 7, sources.CorruptRecord('why'))
  _, line = Path(skip.file).read_text().splitlines()
  assert json.loads(line) == {'split': 'train', 'index': 7, 'error': 'why'}


def test_at_least_one_may_be_skipped():
  with pytest.raises(ValueError, match='most=0, where 1 or more'):
    Skip(0, 'corrupt.jsonl')


def test_errors_cross_processes():
  error = pickle.loads(pickle.dumps(sources.CorruptRecord('record 1')))
  assert type(error) is sources.CorruptRecord and str(error) == 'record 1'


class Stored:
  """Forty images as an array_record file holds them."""

  def __init__(self, path):
    self._records = ArrayRecordDataSource([str(path)])

  def __len__(self):
    return len(self._records)

  def __getitem__(self, index):
    return {'image': self._records[index], 'label': index}


def test_flipped_bytes_of_an_array_record_are_found(tmp_path):
  path = tmp_path / 'images.array_record'
  writer = ArrayRecordWriter(str(path), 'group_size:1,uncompressed')
  rng = np.random.default_rng(0)
  for _ in range(40):
    image = rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    writer.write(cv2.imencode('.png', image)[1].tobytes())
  writer.close()
  content = bytearray(path.read_bytes())
  first = content.index(b'IDAT')
  for place in (first, content.index(b'IDAT', first + 5000)):
    content[place + 50] ^= 0xFF
  path.write_bytes(content)
  dataset = make(Stored(path))
  with pytest.raises(ValueError, match=r'record \d+ of test cannot be read'):
    list(data.eval_batches(dataset, 'test', 8))
  skip = Skip(2, str(tmp_path / 'corrupt.jsonl'))
  batches = list(data.eval_batches(dataset, 'test', 8, skip=skip))
  assert sum(b['weight'].sum() for b in batches) == 38
  assert len(named(skip)) == 2


def huge_png(side):
  header = struct.pack('>IIBBBBB', side, side, 8, 2, 0, 0, 0)
  chunks = [
    (b'IHDR', header),
    (b'IDAT', zlib.compress(bytes(99))),
    (b'IEND', b''),
  ]
  text = b''.join(
    struct.pack('>I', len(body))
    + kind
    + body
    + struct.pack('>I', zlib.crc32(kind + body))
    for kind, body in chunks
  )
  return b'\x89PNG\r\n\x1a\n' + text


def huge_jpeg():
  small = bytearray(encode('.jpg', 8, 8))
  frame = small.index(b'\xff\xc0')
  small[frame + 5 : frame + 9] = struct.pack('>HH', 65_500, 65_500)
  return bytes(small)


def encode(ending, height, width, options=()):
  image = np.zeros((height, width, 3), np.uint8)
  return cv2.imencode(ending, image, list(options))[1].tobytes()


@pytest.mark.parametrize(
  'bomb', [huge_png(20_000), huge_jpeg()], ids=['png', 'jpeg']
)
def test_a_decompression_bomb_is_refused_undecoded(bomb, monkeypatch):
  class Bomb:
    __len__ = lambda self: 1
    __getitem__ = lambda self, index: {'image': bomb, 'label': 0}

  monkeypatch.setattr(cv2, 'imdecode', lambda *_: pytest.fail('was decoded'))
  message = r'record 0 of train says .* (20000|65500) x \1 pixels, and at most'
  with pytest.raises(ValueError, match=message):
    sources.Decoded(Bomb(), 'train', 3)[0]


def test_the_limit_is_in_pixels():
  assert sources.image_size(huge_png(13_377)) == (13_377, 13_377)
  assert 13_377**2 <= sources.MAX_PIXELS < 13_378**2


PROGRESSIVE = (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)


@pytest.mark.parametrize(
  ('encoded', 'size'),
  [
    (encode('.png', 30, 7), (30, 7)),
    (encode('.jpg', 30, 7), (30, 7)),
    (encode('.jpg', 30, 7, PROGRESSIVE), (30, 7)),
    # A thumbnail in a segment of its own, and bytes that fill up.
    (
      b'\xff\xd8\xff\xe1'
      + struct.pack('>H', 2 + len(encode('.jpg', 9, 9)))
      + encode('.jpg', 9, 9)
      + b'\xff\xff'
      + encode('.jpg', 30, 7)[2:],
      (30, 7),
    ),
    (b'', None),
    (b'GIF89a' + bytes(50), None),
    (b'\xff\xd8', None),
    (b'\xff\xd8\xff\xd9' + encode('.jpg', 30, 7), None),
    (encode('.png', 30, 7)[:20], None),
  ],
  ids=map(str, range(9)),
)
def test_sizes_are_read_from_headers(encoded, size):
  assert sources.image_size(encoded) == size


def test_no_header_hangs_or_fails():
  rng = np.random.default_rng(0)
  good = encode('.jpg', 30, 7)
  for _ in range(500):
    bad = bytearray(good)
    for place in rng.integers(2, 200, 5):
      bad[place] = rng.integers(256)
    size = sources.image_size(bytes(bad[: rng.integers(2, len(bad))]))
    assert size is None or len(size) == 2


def test_a_killed_worker_is_started_anew(capfd):
  settings = {'seed': 2, 'start_step': 3}
  dataset = make(Records())
  expected = labels(data.train_batches(dataset, 4, **settings), 30)
  batches = data.train_batches(dataset, 4, num_workers=2, **settings)
  found = labels(batches, 5)
  first, *_ = multiprocessing.active_children()
  os.kill(first.pid, 9)
  began = time.monotonic()
  assert found + labels(batches, 25) == expected
  assert time.monotonic() - began < 20
  assert capfd.readouterr().out.count('worker of the input pipeline died') == 1


def test_workers_that_always_die_end_the_run(capfd):
  dataset = make(Records(deadly=7))
  batches = data.eval_batches(dataset, 'test', 4, num_workers=1)
  with pytest.raises(OSError, match='died 3 times over one batch.*num_workers'):
    labels(batches, 2)  # the first may be lost too: the worker reads ahead
  assert capfd.readouterr().out.count('died') >= 2
