"""`python -m str_jax prepare`, against a small archive of the true format."""

import argparse
import contextlib
import functools
import hashlib
import http.server
import io
import pickle
import struct
import tarfile
import threading

import numpy as np
import pytest

from str_jax import data
from str_jax.commands import prepare

PER_FILE = 4


class Python2Pickler(pickle._Pickler):
  """Writes what Python 2's cPickle wrote: byte strings, NumPy's old names."""

  dispatch = dict(pickle._Pickler.dispatch)

  def save_bytes(self, value):
    if len(value) < 256:
      self.write(pickle.SHORT_BINSTRING + bytes([len(value)]) + value)
    else:
      self.write(pickle.BINSTRING + struct.pack('<i', len(value)) + value)
    self.memoize(value)

  def save_str(self, value):
    self.save_bytes(value.encode())

  dispatch[bytes] = save_bytes
  dispatch[str] = save_str


def python2_pickle(value):
  file = io.BytesIO()
  Python2Pickler(file, 2).dump(value)
  return file.getvalue().replace(b'numpy._core', b'numpy.core')


def cifar10_files(rng):
  """File name to content; and the images by split, as [n, 3072]."""
  images = {'train': [], 'test': []}
  files = {}
  for name in [f'data_batch_{i}' for i in range(1, 6)] + ['test_batch']:
    pixels = rng.integers(0, 256, (PER_FILE, 3072), np.uint8)
    images['test' if name == 'test_batch' else 'train'].append(pixels)
    files[name] = {
      'batch_label': f'batch {name}',
      'labels': [int(x) for x in rng.integers(0, 10, PER_FILE)],
      'data': pixels,
      'filenames': [f'{name}_{i}.png' for i in range(PER_FILE)],
    }
  files['batches.meta'] = {
    'num_cases_per_batch': PER_FILE,
    'label_names': [f'class{i}' for i in range(10)],
    'num_vis': 3072,
  }
  return files, {k: np.concatenate(v) for k, v in images.items()}


def tar_gz(folder, files):
  file = io.BytesIO()
  with tarfile.open(fileobj=file, mode='w:gz') as tar:
    for name, content in files.items():
      info = tarfile.TarInfo(f'{folder}/{name}')
      info.size = len(content)
      tar.addfile(info, io.BytesIO(content))
  return file.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
  """Serves one file, by ranges where asked; may hang up in the middle."""

  def __init__(self, server_state, *args):
    self.state = server_state
    super().__init__(*args)

  def do_GET(self):
    content = self.state['content']
    start = 0
    if 'Range' in self.headers:
      start = int(self.headers['Range'].removeprefix('bytes=').rstrip('-'))
    self.state['starts'].append(start)
    if start >= len(content):
      self.send_error(416)
      return
    self.send_response(206 if start else 200)
    self.send_header('Content-Length', str(len(content) - start))
    self.end_headers()
    self.wfile.write(content[start : self.state.get('hang_up_at')])

  def log_message(self, *args):
    pass


@contextlib.contextmanager
def served(content):
  state = {'content': content, 'starts': []}
  handler = functools.partial(Handler, state)
  with http.server.ThreadingHTTPServer(('localhost', 0), handler) as server:
    threading.Thread(
      target=server.serve_forever, args=(0.01,), daemon=True
    ).start()
    yield state, f'http://localhost:{server.server_port}/archive.tar.gz'
    server.shutdown()


def run(*arguments):
  parser = argparse.ArgumentParser()
  prepare.add_arguments(parser)
  prepare.run(parser.parse_args([str(a) for a in arguments]))


def md5(content):
  return hashlib.md5(content).hexdigest()


def test_cifar10_end_to_end(tmp_path, capsys):
  files, images = cifar10_files(np.random.default_rng(0))
  archive = tar_gz(
    'cifar-10-batches-py', {k: python2_pickle(v) for k, v in files.items()}
  )
  with served(archive) as (state, url):
    flags = [f'--data_dir={tmp_path}', f'--url={url}', f'--md5={md5(archive)}']
    run('cifar10', *flags)
    assert f'prepared in {tmp_path}/cifar10/3.0.2' in capsys.readouterr().out
    run('cifar10', *flags)
    assert 'already prepared' in capsys.readouterr().out
    assert len(state['starts']) == 1

  dataset = data.load('cifar10', data_dir=tmp_path, augment='none')
  assert dataset.num_classes == 10
  assert dataset.note == ''  # PNG: the original pixels
  labels = {
    'train': sum((files[f'data_batch_{i}']['labels'] for i in range(1, 6)), []),
    'test': files['test_batch']['labels'],
  }
  for split, count in (('train', 5 * PER_FILE), ('test', PER_FILE)):
    source = dataset.splits[split]
    ids = [source[i]['id'].decode() for i in range(count)]
    assert sorted(ids) == [f'{split}_{i:05d}' for i in range(count)]
    order = [int(name[-5:]) for name in ids]
    (batch,) = data.eval_batches(dataset, split, count)
    expected = images[split].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(batch['image'], expected[order])
    np.testing.assert_array_equal(batch['label'], np.take(labels[split], order))


def test_cifar100_has_coarse_labels(tmp_path):
  rng = np.random.default_rng(1)
  files = {
    name: {
      'filenames': ['x.png'] * PER_FILE,
      'batch_label': name,
      'fine_labels': [99, 3, 0, 41],
      'coarse_labels': [19, 1, 0, 7],
      'data': rng.integers(0, 256, (PER_FILE, 3072), np.uint8),
    }
    for name in ('train', 'test')
  }
  files['meta'] = {
    'fine_label_names': [f'fine{i}' for i in range(100)],
    'coarse_label_names': [f'coarse{i}' for i in range(20)],
  }
  archive = tar_gz(
    'cifar-100-python', {k: python2_pickle(v) for k, v in files.items()}
  )
  path = tmp_path / 'downloads' / 'cifar-100-python.tar.gz'
  path.parent.mkdir()
  path.write_bytes(archive)  # put there by hand: nothing is downloaded
  run('cifar100', f'--data_dir={tmp_path}', f'--md5={md5(archive)}')
  dataset = data.load('cifar100', data_dir=tmp_path)
  assert dataset.num_classes == 100
  train = dataset.splits['train']
  pairs = {(train[i]['label'], train[i]['coarse_label']) for i in range(4)}
  assert pairs == {(99, 19), (3, 1), (0, 0), (41, 7)}


def test_download_goes_on_where_it_stopped(tmp_path):
  content = bytes(range(256)) * 4000
  path = tmp_path / 'file.gz'
  with served(content) as (state, url):
    state['hang_up_at'] = 600_000
    with pytest.raises(OSError, match='600000 of 1024000 bytes.*run the comm'):
      prepare.download(url, path, md5(content))
    assert not path.exists()
    state['hang_up_at'] = None
    prepare.download(url, path, md5(content))
    assert state['starts'] == [0, 600_000]
  assert path.read_bytes() == content
  assert [p.name for p in tmp_path.iterdir()] == ['file.gz']


def test_complete_part_is_only_checked(tmp_path):
  content = b'all of it'
  path = tmp_path / 'file.gz'
  (tmp_path / 'file.gz.part').write_bytes(content)
  with served(content) as (_, url):
    prepare.download(url, path, md5(content))
  assert path.read_bytes() == content


def test_wrong_checksum_deletes(tmp_path):
  with served(b'something else') as (_, url):
    with pytest.raises(ValueError, match='checksum .* deleted, run the comma'):
      prepare.download(url, tmp_path / 'file.gz', md5(b'what was wanted'))
  assert not list(tmp_path.iterdir())


def test_no_connection_is_one_sentence(tmp_path):
  with served(b'') as (_, url):
    pass  # closed again: the port refuses
  with pytest.raises(OSError, match='could not be downloaded .*refused.*--url'):
    run('cifar10', f'--data_dir={tmp_path}', f'--url={url}')


class Evil:
  def __reduce__(self):
    return print, ('code has run',)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'data_batch_3': pickle.dumps(Evil())}, r'asks for \S+\.print'),
    ({'data_batch_3': None}, 'no cifar-10-batches-py/data_batch_3'),
    ({'test_batch': python2_pickle({'labels': []})}, 'test_batch lacks images'),
    ({'batches.meta': python2_pickle(['x'])}, 'batches.meta lacks images'),
  ],
)
def test_wrong_archive_is_one_sentence(tmp_path, capsys, change, message):
  files, _ = cifar10_files(np.random.default_rng(0))
  members = {k: python2_pickle(v) for k, v in files.items()} | change
  archive = tar_gz(
    'cifar-10-batches-py', {k: v for k, v in members.items() if v is not None}
  )
  path = tmp_path / 'downloads' / 'cifar-10-python.tar.gz'
  path.parent.mkdir()
  path.write_bytes(archive)
  with pytest.raises(
    ValueError, match=f'not the archive of cifar10.*{message}'
  ):
    run('cifar10', f'--data_dir={tmp_path}', f'--md5={md5(archive)}')
  assert 'code has run' not in capsys.readouterr().out
  assert not (tmp_path / 'cifar10').exists()


def test_not_a_tar_is_one_sentence(tmp_path):
  path = tmp_path / 'downloads' / 'cifar-10-python.tar.gz'
  path.parent.mkdir()
  path.write_bytes(b'<html>not found</html>')
  with pytest.raises(ValueError, match='is not the archive of cifar10'):
    run('cifar10', f'--data_dir={tmp_path}', f'--md5={md5(path.read_bytes())}')
