"""A folder of images: read as it lies, and prepared as a TFDS set."""

import io
import os
import pickle
import re
import types

import fsspec
import numpy as np
import pytest
from etils.epath import backend
from fsspec.implementations import memory
from PIL import Image

from str_jax import __main__ as command_line
from str_jax import data
from str_jax.data import folder, images, prepared
from str_jax.data.sources import CorruptRecord

IMAGES = {'train': 5, 'val': 3}
CLASSES = ('ant', 'bee', 'Cat')


def picture(seed, mode='RGB', encoding='JPEG'):
  rng = np.random.default_rng(seed)
  colour = rng.integers(0, 256, {'RGB': 3, 'L': 1, 'CMYK': 4}[mode])
  image = Image.new(mode, (16, 12 + seed % 3), tuple(colour.tolist()))
  file = io.BytesIO()
  image.save(file, encoding, quality=100)
  return file.getvalue()


def write_images(root):
  """Images of all kinds, those of every class of a split."""
  seed = 0
  for split, count in IMAGES.items():
    for name in CLASSES:
      (root / split / name).mkdir(parents=True)
      for i in range(count):
        kind, extension = {
          0: (('RGB', 'PNG'), 'png'),
          1: (('CMYK', 'JPEG'), 'JPEG'),
          2: (('L', 'JPEG'), 'jpeg'),
        }.get(i, (('RGB', 'JPEG'), 'jpg'))
        path = root / split / name / f'{i} ü.{extension}'
        path.write_bytes(picture(seed, *kind))
        seed += 1
  return root


@pytest.fixture
def root(tmp_path):
  return write_images(tmp_path / 'My Images')


def load(path, **settings):
  return data.load('imagefolder', data_dir=path, image_size=8, **settings)


def prepare_folder(path, out, *flags):
  command_line.main(
    ['prepare', 'folder', f'--images={path}', f'--out={out}', '--processes=1']
    + list(flags)
  )


def records(source):
  return {
    os.fsdecode(record['file_name']): (record['image'], record['label'])
    for record in (source[i] for i in range(len(source)))
  }


def test_read_as_it_lies(root):
  dataset = load(root)
  assert dataset.num_classes == 3 and dataset.image_shape == (8, 8, 3)
  assert (dataset.size('train'), dataset.size('test')) == (15, 9)
  assert dataset.note == '' and dataset.splits['validation'] is None
  assert dataset.mean == pytest.approx((123.675, 116.28, 103.53))
  found = records(dataset.splits['train'])
  assert len(found) == 15
  for name, (image, label) in found.items():
    assert image == (root / 'train' / name).read_bytes()
    # Sorted as Python and torchvision do: capitals first.
    assert label == ('Cat', 'ant', 'bee').index(name.split('/')[0])
  batches = [
    next(data.train_batches(dataset, 7, seed=0, num_workers=n)) for n in (0, 1)
  ]
  assert batches[0]['image'].shape == (7, 8, 8, 3)
  for name in batches[0]:
    np.testing.assert_array_equal(batches[0][name], batches[1][name])


def test_prepared_it_gives_the_same_images(root, tmp_path, capsys):
  prepare_folder(root, tmp_path / 'out', '--shards=2')
  assert 'my_images is prepared in' in capsys.readouterr().out
  prepared = data.load('my_images', data_dir=tmp_path / 'out', image_size=8)
  direct = load(root)
  assert (prepared.mean, prepared.std) == (direct.mean, direct.std)
  assert prepared.num_classes == 3
  for split in ('train', 'test'):
    ours = records(prepared.splits[split])
    wanted = records(direct.splits[split])
    assert ours.keys() == wanted.keys()
    for name, (image, label) in wanted.items():
      assert ours[name][1] == label
      if name.endswith('JPEG'):  # CMYK
        assert Image.open(io.BytesIO(ours[name][0])).mode == 'RGB'
      else:
        assert ours[name][0] == image
  (batch,) = data.eval_batches(prepared, 'test', 9)
  assert batch['weight'].sum() == 9


def test_validation_is_val_where_there_is_a_test(root, tmp_path):
  (root / 'test').mkdir()
  (root / 'val' / 'ant').rename(root / 'test' / 'ant')
  prepare_folder(root, tmp_path / 'out', '--name=ours')
  for dataset in (
    load(root),
    data.load('ours', data_dir=tmp_path / 'out', image_size=8),
  ):
    sizes = [dataset.size(s) for s in ('train', 'validation', 'test')]
    assert sizes == [15, 6, 3]
  sizes = [len(s) for s in load(root, validation=4).splits.values()]
  assert sizes == [11, 4, 3]
  assert load(root, validation=0).splits['validation'] is None
  assert 'no images of 2 of the 3 classes, of Cat for one' in load(root).note


def test_what_is_left_out_is_told(root, capsys, tmp_path):
  (root / 'train' / 'ant' / 'Thumbs.db').write_bytes(b'')
  (root / 'train' / 'readme.txt').write_text('hello')
  (root / 'train' / '.notebook').mkdir()
  (root / 'train' / 'ant' / '._4 ü.jpg').write_bytes(b'a fork')
  (root / 'val' / 'empty').mkdir()
  note = f'4 files in {root}/train are no images in a class and were left out'
  dataset = load(root)
  assert dataset.note.startswith(note) and dataset.num_classes == 3
  prepare_folder(root, tmp_path / 'out')
  assert f'note: {note}' in capsys.readouterr().out


def test_links_stay_inside(root, tmp_path):
  outside = tmp_path / 'outside.jpg'
  outside.write_bytes(picture(0))
  (root / 'train' / 'ant' / 'inside.jpg').symlink_to('4 ü.jpg')
  (root / 'train' / 'dog').symlink_to(root / 'train' / 'ant')
  assert load(root).size('train') == 15 + 1 + 6
  through = tmp_path / 'through'
  through.symlink_to(root)
  assert load(through).size('train') == 22  # the user names this one
  for path, target in (
    ('train/ant/outside.jpg', outside),
    ('train/bird', tmp_path),
    ('test', tmp_path),
  ):
    (root / path).symlink_to(target)
    with pytest.raises(ValueError, match=f'{path} is a link to .* outside'):
      load(root)
    (root / path).unlink()


def wrong(change, root):
  """Spoils a folder of images."""
  if change == 'gone':
    return root / 'gone'
  if change == 'no train':
    (root / 'train').rename(root / 'training')
  elif change == 'no val':
    (root / 'val').rename(root / 'evaluation')
  elif change == 'two names':
    (root / 'validation').mkdir()
  elif change == 'empty class':
    (root / 'train' / 'dog').mkdir()
  elif change == 'unknown class':
    (root / 'train' / 'Cat').rename(root / 'train' / 'dog')
  elif change == 'no images':
    for path in (root / 'val').glob('*/*'):
      path.unlink()
  elif change == 'no bytes':
    (root / 'train' / 'ant' / '4 ü.jpg').write_bytes(b'')
  elif change == 'no image':
    (root / 'train' / 'ant' / '4 ü.jpg').write_bytes(b'<html>')
  return root


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ('gone', 'there is no folder .*/gone'),
    ('no train', 'has val, where train and one of val'),
    ('no val', 'has train, where train and one of val'),
    ('two names', 'val and .*/validation are the same split'),
    ('empty class', 'train/dog has no images: remove the class'),
    ('unknown class', 'val/Cat is a class that train has not'),
    ('no images', 'val has no images: they are looked for in'),
    ('no bytes', 'train/ant/4 ü.jpg has 0 bytes'),
    ('no image', 'train/ant/4 ü.jpg is not a readable JPEG or PNG'),
  ],
)
def test_a_wrong_folder_is_one_sentence(change, message, root, capsys):
  path = wrong(change, root)
  with pytest.raises(SystemExit) as raised:
    prepare_folder(path, root.parent / 'out')
  assert raised.value.code == 2
  printed = capsys.readouterr().err
  assert re.search(message, printed) and printed.count('\n') == 1
  if not change.startswith('no image') and change != 'no bytes':
    with pytest.raises((ValueError, FileNotFoundError), match=message):
      load(path)


def test_a_huge_file_is_not_read_whole(root, monkeypatch):
  monkeypatch.setattr(images, 'MAX_BYTES', 100)
  (root / 'train' / 'ant' / '4 ü.jpg').write_bytes(bytes(10_000))
  row = ('train/ant/4 ü.jpg'.encode(), 0, 0, 0)
  source = folder.FolderSource(str(root), folder.shards.table([row]))
  # Of the kind that a run may be allowed to skip.
  with pytest.raises(CorruptRecord, match='4 ü.jpg has 101 bytes'):
    source[0]


@pytest.mark.parametrize('name', ['fake', 'imagefolder', '2x', 'a/b', '../a'])
def test_a_name_that_load_cannot_find(name, root, capsys):
  with pytest.raises(SystemExit):
    prepare_folder(root, root / 'out', f'--name={name}')
  assert 'cannot be the name of the set' in capsys.readouterr().err
  assert not (root / 'out').exists()


def test_a_folder_that_cannot_be_made(root, capsys):
  with pytest.raises(SystemExit):
    prepare_folder(root, root / 'train' / 'ant' / '4 ü.jpg', '--name=a')
  assert 'cannot be made (Not a directory): name' in capsys.readouterr().err


def test_no_data_dir():
  with pytest.raises(ValueError, match='imagefolder wants data_dir'):
    data.load('imagefolder')


def test_a_source_is_small_for_a_worker(tmp_path):
  rows = [(b'n01440764/n01440764_%05d.JPEG' % i, i % 7, 0, 0) for i in range(9)]
  size = {}
  for times in (1, 10_000):
    items = folder.shards.table(rows * times)
    size[times] = len(pickle.dumps(folder.FolderSource('/x', items)))
  assert (size[10_000] - size[1]) / 90_000 < 60  # bytes an image


class Bucket(memory.MemoryFileSystem):
  """What gcsfs would be, in memory."""

  protocol = ('gs', 'gcs')
  store = {}
  pseudo_dirs = ['']

  @classmethod
  def _strip_protocol(cls, path):
    return super()._strip_protocol(re.sub('^gs://', '/', path))


@pytest.fixture
def bucket(monkeypatch):
  files = Bucket()
  files.store.clear()
  kinds = {'gcs': files, 'file': fsspec.filesystem('file')}
  monkeypatch.setattr(
    type(backend.fsspec_backend), '_get_filesystem', lambda _, name: kinds[name]
  )
  return files


def test_a_bucket_is_read_and_written(bucket, root, tmp_path):
  for path in root.glob('*/*/*'):
    bucket.pipe(f'gs://b/images/{path.relative_to(root)}', path.read_bytes())
  there, here = load('gs://b/images'), load(root)
  for split in ('train', 'test'):
    assert records(there.splits[split]) == records(here.splits[split])
  flags = ('--shards=2', '--name=ours')
  for _ in range(2):  # made, then checked
    prepare_folder('gs://b/images', 'gs://b/out', *flags)
  prepare_folder(root, tmp_path / 'out', *flags)
  local = tmp_path / 'out' / 'ours' / '1.0.0'
  assert {p.name for p in local.iterdir()} == {
    path.rpartition('/')[2]
    for path in bucket.ls('gs://b/out/ours/1.0.0', False)
  }
  for path in local.iterdir():
    assert bucket.cat(f'gs://b/out/ours/1.0.0/{path.name}') == path.read_bytes()


def test_addresses_stay_whole(bucket, monkeypatch):
  assert str(prepared.data_folder('gs://b/c')) == 'gs://b/c'
  monkeypatch.setenv('TFDS_DATA_DIR', 'gs://b')
  assert str(prepared.data_folder(None) / 'c') == 'gs://b/c'


def test_an_address_out_of_reach_is_one_sentence(monkeypatch, root, capsys):
  def missing(self, name):
    raise ImportError(f'Please install {name}fs')

  monkeypatch.setattr(type(backend.fsspec_backend), '_get_filesystem', missing)
  with pytest.raises(OSError, match=r's3://b/c cannot .*install s3fs.: gs://'):
    load('s3://b/c')
  with pytest.raises(ValueError, match='ftp://b/c is neither a folder on'):
    load('ftp://b/c')
  with pytest.raises(SystemExit):
    prepare_folder(root, 'gs://b/out')
  assert 'error: gs://b/out cannot be reached' in capsys.readouterr().err


def test_cifar_in_a_bucket_is_one_sentence(bucket, capsys):
  with pytest.raises(SystemExit):
    command_line.main(['prepare', 'cifar10', '--data_dir=gs://b/c'])
  assert 'prepared on a disk alone' in capsys.readouterr().err


def test_array_record_at_s3_is_refused():
  builder = types.SimpleNamespace(data_dir='s3://b/ours/1.0.0')
  with pytest.raises(ValueError, match='a disk or gs:// alone; copy'):
    prepared.source(builder, 'train')
