"""Sets on disk in TFDS's format: a tiny one, made here."""

import itertools
import re
import shutil

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from str_jax import data

SIZES = {'train': 23, 'test': 7}
BROKEN = 5  # in the test split of the set `broken`


def image(index):
  shape = (10 + index % 3, 12, 3)
  return np.random.default_rng(index).integers(0, 256, shape, np.uint8)


def encode(index, extension):
  return cv2.imencode(extension, image(index)[..., ::-1])[1].tobytes()


class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Images of differing sizes in three classes."""

  name = 'tiny'
  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {
          'id': tfds.features.Text(),
          'image': tfds.features.Image(shape=(None, None, 3)),
          'label': tfds.features.ClassLabel(num_classes=3),
        }
      ),
    )

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(split) for split in SIZES}

  def _generate_examples(self, split):
    for i in range(SIZES[split]):
      broken = split == 'test' and i == BROKEN and self.name == 'broken'
      content = b'no image' if broken else encode(i, self.extension)
      yield i, {'id': f'{split}{i}', 'image': content, 'label': i % 3}

  extension = '.png'


class Broken(Tiny, skip_registration=True):
  name = 'broken'


class Cifar10(Tiny, skip_registration=True):
  name = 'cifar10'
  extension = '.jpg'


class Values(Tiny, skip_registration=True):
  name = 'values'

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict({'value': np.int64}),
    )

  def _generate_examples(self, split):
    for i in range(SIZES[split]):
      yield i, {'value': i}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('tfds')
  for builder in (Tiny, Broken, Cifar10, Values):
    builder(data_dir=path, file_format='array_record').download_and_prepare(
      download_dir=str(path / 'downloads')
    )
  return path


def load(folder, name='tiny', **settings):
  return data.load(name, data_dir=folder, image_size=8, **settings)


def test_records_come_back(folder):
  tiny = load(folder, validation=5)
  assert tiny.num_classes == 3 and tiny.image_shape == (8, 8, 3)
  assert [len(s) for s in tiny.splits.values()] == [18, 5, 7]
  seen = set()
  for source in tiny.splits.values():
    for i in range(len(source)):
      record = source[i]
      name = record['id'].decode()
      number = int(re.sub(r'\D', '', name))
      assert record['image'] == encode(number, '.png')
      assert record['label'] == number % 3
      seen.add(name)
  assert len(seen) == 30  # nothing held out is trained on


def test_decoded_as_rgb(folder):
  # Evaluated at its own size, a record is what was stored.
  tiny = load(folder, augment='none')
  (batch,) = data.eval_batches(tiny, 'test', 7)
  source = tiny.splits['test']
  expected = [
    cv2.resize(
      image(int(source[i]['id'][4:])), (8, 8), interpolation=cv2.INTER_AREA
    )
    for i in range(7)
  ]
  np.testing.assert_array_equal(batch['image'], expected)


def test_order_is_kept_by_workers_processes_and_resumption(folder):
  tiny = load(folder, augment='random_resized_crop')
  whole = list(itertools.islice(data.train_batches(tiny, 6, seed=2), 12))

  def check(batches, expected):
    batches = itertools.islice(batches, len(expected))
    for batch, e in zip(batches, expected, strict=True):
      np.testing.assert_array_equal(batch['image'], e['image'])
      np.testing.assert_array_equal(batch['label'], e['label'])

  check(data.train_batches(tiny, 6, seed=2, num_workers=2), whole)
  check(data.train_batches(tiny, 6, seed=2, start_step=7), whole[7:])
  for i in range(2):
    part = data.train_batches(tiny, 6, seed=2, process_index=i, process_count=2)
    check(part, [{k: v[i::2] for k, v in b.items()} for b in whole])


def test_unreadable_image_is_named(folder):
  broken = load(folder, 'broken')
  index = [
    i for i in range(7) if broken.splits['test'][i]['image'] == b'no image'
  ]
  message = rf'record {index[0]} of test \(id test5\) is neither a JPEG nor'
  for workers in (0, 1):
    with pytest.raises(ValueError, match=message):
      list(data.eval_batches(broken, 'test', 7, num_workers=workers))


def test_note_tells_of_jpeg_only_where_the_original_is_not(folder):
  assert 'JPEG re-encodings of cifar10' in load(folder, 'cifar10').note
  assert load(folder).note == ''


def test_default_folder_is_tfds_data_dir(folder, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(folder))
  assert len(data.load('tiny:1.0.0', image_size=8).splits['train']) == 23


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('cifar100', '^cifar100 is not in {}: get it with `python -m str_jax prep'),
    ('cifra10', '^cifra10 is neither digits nor fake, .* in {}: prepare it'),
    ('../no such/set!', 'is neither digits nor fake'),
    ('tiny:9.9.9', 'is neither digits nor fake'),
    ('', 'is neither digits nor fake'),
  ],
)
def test_missing_set_is_one_sentence(folder, name, message):
  with pytest.raises(
    FileNotFoundError, match=message.format(re.escape(str(folder)))
  ) as raised:
    load(folder, name)
  assert '\n' not in str(raised.value)


def test_tfrecord_is_named(folder, tmp_path):
  shutil.copytree(folder / 'tiny', tmp_path / 'tiny')
  info = tmp_path / 'tiny' / '1.0.0' / 'dataset_info.json'
  info.write_text(info.read_text().replace('array_record', 'tfrecord'))
  with pytest.raises(FileNotFoundError, match='is prepared as tfrecord'):
    load(tmp_path)


def test_sets_that_do_not_fit(folder):
  with pytest.raises(ValueError, match='records have value, where image and'):
    load(folder, 'values')
  with pytest.raises(ValueError, match='differ in size: .* image_size='):
    data.load('tiny', data_dir=folder)
  with pytest.raises(ValueError, match='from 0 to 22'):
    load(folder, validation=23)
