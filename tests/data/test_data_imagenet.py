"""`prepare imagenet`: from miniature tars to batches, killed or not."""

import contextlib
import fcntl
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import tarfile
import time

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath
from PIL import Image

from str_jax import __main__ as command_line
from str_jax import data
from str_jax.data import imagenet, parallel, shards

ROOT = pathlib.Path(command_line.__file__).parent.parent
SYNSETS = {'n01440764': 0, 'n01443537': 1, 'n15075141': 999}
STRAYS = {0: ('CMYK', 'JPEG'), 1: ('RGB', 'PNG'), 2: ('L', 'JPEG')}
VALIDATION = (3, 1, 50_000, 2)  # not in the order of the names


def picture(rng, mode='RGB', encoding='JPEG'):
  """One colour all over, so that it stays what it is as a JPEG."""
  colour = rng.integers(0, 256, {'RGB': 3, 'L': 1, 'CMYK': 4}[mode])
  image = Image.new(mode, (16, 12 + int(colour[0]) % 5), tuple(colour.tolist()))
  file = io.BytesIO()
  image.save(file, encoding, quality=100)
  return file.getvalue()


def tar(files):
  file = io.BytesIO()
  with tarfile.open(fileobj=file, mode='w') as archive:
    for name, content in files.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))
  return file.getvalue()


def write_tars(folder, per_class):
  """The two tars; returns the encoded images by file name."""
  rng = np.random.default_rng(0)
  train = {
    synset: {
      f'{synset}_{i}.JPEG': picture(rng, *STRAYS.get(i, ('RGB', 'JPEG')))
      for i in range(per_class)
    }
    for synset in SYNSETS
  }
  validation = {
    f'ILSVRC2012_val_{i:08d}.JPEG': picture(rng) for i in VALIDATION
  }
  folder.mkdir(exist_ok=True)
  tars = {f'{synset}.tar': tar(files) for synset, files in train.items()}
  (folder / imagenet.TRAIN_TAR).write_bytes(tar(tars))
  (folder / imagenet.VALIDATION_TAR).write_bytes(tar(validation))
  return {k: v for files in train.values() for k, v in files.items()} | (
    validation
  )


def prepare(tars, out, *flags):
  command_line.main(
    ['prepare', 'imagenet', f'--tars={tars}', f'--out={out}', *flags]
  )
  return out / 'imagenet2012' / '5.1.0'


def contents(folder):
  return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """(tars, the images in them, the folder of the set made by one process)."""
  home = tmp_path_factory.mktemp('imagenet')
  originals = write_tars(home / 'tars', 8)
  folder = prepare(home / 'tars', home / 'out', '--shards=4', '--processes=1')
  return home / 'tars', originals, folder


def test_end_to_end(made):
  _, originals, folder = made
  dataset = data.load('imagenet2012', data_dir=folder.parent.parent)
  assert dataset.image_shape == (224, 224, 3) and dataset.num_classes == 1000
  assert (dataset.size('train'), dataset.size('test')) == (24, 4)
  batch = next(data.train_batches(dataset, 6, seed=0))
  assert batch['image'].shape == (6, 224, 224, 3)
  assert set(batch['label']) <= {*SYNSETS.values()}
  path = tfds.core.tfds_path('datasets/imagenet2012/validation_labels.txt')
  synsets = path.read_text().split()
  names = imagenet.classes()
  seen = {}
  for split in ('train', 'test'):
    source = dataset.splits[split]
    for record in (source[i] for i in range(len(source))):
      name = record['file_name'].decode()
      seen[name] = record['image']
      if split == 'train':
        assert record['label'] == SYNSETS[name[:9]]
      else:
        assert names[record['label']] == synsets[int(name[15:23]) - 1]
  assert seen.keys() == originals.keys()
  for name, image in seen.items():
    number = int(name.split('_')[-1][:-5])
    if name.startswith('n') and number < 2:  # CMYK or PNG
      assert Image.open(io.BytesIO(image)).mode == 'RGB'
      wanted = Image.open(io.BytesIO(originals[name])).convert('RGB')
      found = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR_RGB)
      np.testing.assert_allclose(found, wanted, atol=3)
    else:
      assert image == originals[name]
    assert image[:2] == b'\xff\xd8'


def test_the_order_on_disk_is_shuffled(made):
  dataset = data.load('imagenet2012', data_dir=made[2].parent.parent)
  source = dataset.splits['train']
  labels = [source[i]['label'] for i in range(24)]
  assert labels != sorted(labels)


def test_the_same_bytes_from_any_number_of_processes(made, tmp_path, capsys):
  tars, _, folder = made
  again = prepare(tars, tmp_path, '--shards=4', '--processes=3')
  assert contents(again) == contents(folder)
  printed = ' '.join(capsys.readouterr().out.split())
  assert '24 images of train in 4 shards, 4 images of validation' in printed
  assert 'train has 24 images, the whole of ILSVRC2012 1281167' in printed


def test_a_second_run_checks_and_mends(made, tmp_path, capsys):
  tars, _, folder = made
  flags = ('--shards=4', '--processes=1')
  mended = prepare(tars, tmp_path, *flags)
  capsys.readouterr()
  before = {p.name: p.stat().st_mtime_ns for p in mended.glob('*-of-*')}
  flipped, gone, *_ = sorted(mended.glob('*-train*'))
  content = bytearray(flipped.read_bytes())
  content[len(content) // 2] ^= 1
  flipped.write_bytes(content)
  gone.unlink()
  (mended / f'{gone.name}.7.part').write_bytes(b'half')
  prepare(tars, tmp_path, *flags)
  assert '2 damaged or missing shards were made' in capsys.readouterr().out
  assert contents(mended) == contents(folder)
  after = {p.name: p.stat().st_mtime_ns for p in mended.glob('*-of-*')}
  changed = {name for name in before if after[name] != before[name]}
  assert changed == {flipped.name, gone.name}
  prepare(tars, tmp_path, *flags)
  assert 'damaged' not in capsys.readouterr().out


def alive(pid):
  with contextlib.suppress(FileNotFoundError, ProcessLookupError):
    state = pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2]
    return state.split()[0] != 'Z'
  return False


def logged(folder):
  file = folder / shards.LOG
  return json.loads(file.read_text())['shards'] if file.exists() else {}


def test_kill_and_resume(tmp_path):
  tars, out = tmp_path / 'tars', tmp_path / 'out'
  write_tars(tars, 50)
  flags = ('--shards=100', '--processes=2')
  command = [sys.executable, '-m', 'str_jax', 'prepare', 'imagenet']
  command += [f'--tars={tars}', f'--out={out}', *flags]
  folder = out / 'imagenet2012' / '5.1.0'
  with subprocess.Popen(
    command, cwd=ROOT, stdout=subprocess.DEVNULL
  ) as process:
    while process.poll() is None and len(logged(folder)) < 10:
      time.sleep(0.002)
    children = pathlib.Path(f'/proc/{process.pid}/task').glob('*/children')
    workers = [pid for file in children for pid in file.read_text().split()]
    process.kill()
    assert process.wait() == -signal.SIGKILL
  assert len(workers) >= 2
  deadline = time.monotonic() + 10
  while any(map(alive, workers)):
    assert time.monotonic() < deadline, 'the workers outlived their parent'
    time.sleep(0.01)
  assert data_error(out).startswith('imagenet2012 is not in')
  kept = {name: (folder / name).stat().st_mtime_ns for name in logged(folder)}
  assert 10 <= len(kept) < 100
  prepare(tars, out, '--shards=100', '--processes=1')
  for name, made_at in kept.items():
    assert (folder / name).stat().st_mtime_ns == made_at
  whole = prepare(tars, tmp_path / 'whole', '--shards=100', '--processes=1')
  assert contents(folder) == contents(whole)


def data_error(data_dir):
  with pytest.raises(FileNotFoundError) as raised:
    data.load('imagenet2012', data_dir=data_dir)
  return str(raised.value)


def test_two_at_once_and_another_source_are_refused(made, tmp_path, capsys):
  tars, _, folder = made
  out = folder.parent.parent
  handle = os.open(folder, os.O_RDONLY)
  fcntl.flock(handle, fcntl.LOCK_EX)
  assert 'another command is writing to' in error(tars, out, capsys)
  os.close(handle)
  before = contents(folder)
  assert 'other images or another --shards' in error(tars, out, capsys)
  write_tars(tmp_path / 'tars', 9)
  found = error(tmp_path / 'tars', out, capsys, '--shards=4')
  assert 'other images or another --shards' in found
  assert contents(folder) == before


def error(tars, out, capsys, *flags):
  """The sentence with which the command ends, in exit code 2."""
  with pytest.raises(SystemExit) as raised:
    prepare(tars, out, '--processes=1', *flags)
  assert raised.value.code == 2
  printed = capsys.readouterr().err
  assert printed.startswith('error: ') and printed.count('\n') == 1
  return printed


@pytest.mark.parametrize('flag', ['--shards=0', '--processes=-1'])
def test_numbers_out_of_range(flag, made, tmp_path, capsys):
  assert 'is at least 1' in error(made[0], tmp_path, capsys, flag)


def test_a_full_disk_is_one_sentence(made, tmp_path):
  (split, _) = imagenet.splits(epath.Path(made[0]))
  with pytest.raises(OSError, match='No space left on device.*make room'):
    path = epath.Path('/dev/full')
    task = shards.Task(str(tmp_path / 'x'), split.items, split.reader, None)
    shards._write(path, task)


def test_memory_does_not_grow_with_a_shard(tmp_path):
  page = os.sysconf('SC_PAGE_SIZE')
  used = []

  def reader(items):
    for _ in items:
      pages = pathlib.Path('/proc/self/statm').read_text().split()[1]
      used.append(int(pages) * page)
      yield os.urandom(1 << 20)

  items = shards.table([(b'x', 0, 0, 0)] * 300)
  shards.make(shards.Task(str(tmp_path / 'x'), items, reader, None))
  assert (tmp_path / 'x').stat().st_size > 300 << 20
  assert max(used) - used[0] < 150 << 20


def test_preparing_needs_no_tensorflow(made, tmp_path):
  code = f"""
import sys
from str_jax import __main__ as command_line
command_line.main(['prepare', 'imagenet', '--tars={made[0]}',
                   '--out={tmp_path}', '--processes=1'])
assert 'tensorflow' not in sys.modules
"""
  subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)


def test_a_killed_process_is_one_sentence():
  with pytest.raises(OSError, match='a process was killed.*fewer --processes'):
    list(parallel.run(os._exit, [9, 9], 2))
