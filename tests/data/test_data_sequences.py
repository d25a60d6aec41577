"""HAR-2 and Google-12, on generated files of the form of the real ones."""

import json
import pickle
import warnings

import numpy as np
import pytest
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2

from str_jax import data
from str_jax.data import har, speech

RNG = np.random.default_rng(0)
SIZES = {'train': 30, 'validation': 5, 'test': 8}


def words(split):
  """Clips of different lengths, some longer than a second, and labels."""
  rng = np.random.default_rng(SIZES[split])
  lengths = rng.integers(8_000, 17_000, SIZES[split])
  clips = [rng.integers(-(2**15), 2**15, n, np.int16) for n in lengths]
  return clips, rng.integers(0, 12, SIZES[split])


@pytest.fixture
def uci(tmp_path):
  """The UCI archive as it unpacks, with few windows."""
  for split in ('train', 'test'):
    folder = tmp_path / 'UCI HAR Dataset' / split
    (folder / 'Inertial Signals').mkdir(parents=True)
    activities = np.arange(SIZES[split]) % 6 + 1
    np.savetxt(folder / f'y_{split}.txt', activities, '%d')
    for i, name in enumerate(har.SIGNALS):
      values = RNG.normal(i, i + 1, (SIZES[split], 128))
      path = folder / 'Inertial Signals' / f'{name}_{split}.txt'
      # As in the archive: two spaces before a number, three-digit exponents.
      lines = ['  '.join(f'{v: .7e}' for v in row) for row in values]
      path.write_text('\n'.join(f' {line}' for line in lines) + '\n')
  return tmp_path


@pytest.fixture
def commands(tmp_path):
  """speech_commands as TFDS prepares it: serialized tf.train.Examples."""
  folder = tmp_path / 'speech_commands' / '0.0.3'
  folder.mkdir(parents=True)
  for split in SIZES:
    for shard, part in enumerate(np.array_split(np.arange(SIZES[split]), 2)):
      writer = array_record_module.ArrayRecordWriter(
        str(
          folder / f'speech_commands-{split}.array_record-{shard:05d}-of-00002'
        ),
        'group_size:1',
      )
      clips, labels = words(split)
      for i in part:
        example = tf_example_pb2.Example()
        feature = example.features.feature
        feature['audio'].int64_list.value.extend(map(int, clips[i]))
        feature['label'].int64_list.value.append(int(labels[i]))
        writer.write(example.SerializeToString())
      writer.close()
  features = {'label': {'classLabel': {'numClasses': '12'}}}
  (folder / 'features.json').write_text(
    json.dumps({'featuresDict': {'features': features}})
  )
  (folder / 'dataset_info.json').write_text('{"fileFormat": "array_record"}')
  return tmp_path


def test_har2_is_read_as_it_unpacks(uci):
  har2 = data.load('har2', data_dir=uci)
  assert har2.image_shape == (128, 1, 9) and har2.num_classes == 2
  assert [har2.size(s) for s in ('train', 'validation', 'test')] == [30, 0, 8]
  record = har2.splits['train'][7]  # the second activity: walking upstairs
  assert record['image'].dtype == np.float32
  for i, name in enumerate(har.SIGNALS):
    path = f'UCI HAR Dataset/train/Inertial Signals/{name}_train.txt'
    line = (uci / path).read_text().splitlines()[7]
    np.testing.assert_allclose(
      record['image'][:, 0, i], np.array(line.split(), float), rtol=1e-6
    )


def test_har2_has_sitting_laying_and_upstairs_against_the_rest(uci):
  names = 'walking upstairs downstairs sitting standing laying'.split()
  train = data.load('har2', data_dir=uci).splits['train']
  label = {name: train[i]['label'] for i, name in enumerate(names)}
  one = {label[name] for name in ('sitting', 'laying', 'upstairs')}
  other = {label[name] for name in ('standing', 'walking', 'downstairs')}
  assert (one, other) == ({0}, {1})


def test_batches_of_har2_have_zero_mean_and_unit_variance(uci):
  har2 = data.load('har2', data_dir=uci)
  batch = next(data.train_batches(har2, 30, seed=0))  # the whole of it
  assert batch['image'].dtype == np.float32
  normal = (batch['image'] - har2.mean) / har2.std
  np.testing.assert_allclose(normal.mean((0, 1, 2)), 0, atol=1e-4)
  np.testing.assert_allclose(normal.std((0, 1, 2)), 1, atol=1e-4)
  batches = list(data.eval_batches(har2, 'test', 5))
  assert sum(b['weight'].sum() for b in batches) == 8


def test_har2_holds_out_for_validation(uci):
  har2 = data.load('har2', data_dir=uci, validation=10)
  sizes = [har2.size(s) for s in ('train', 'validation', 'test')]
  assert sizes == [20, 10, 8]


SIGNAL = 'UCI HAR Dataset/test/Inertial Signals/total_acc_z_test.txt'
LABELS = 'UCI HAR Dataset/train/y_train.txt'


@pytest.mark.parametrize(
  ('path', 'text', 'error', 'message'),
  [
    (SIGNAL, None, FileNotFoundError, 'z_test.txt is missing: download .*uci'),
    (LABELS, None, FileNotFoundError, 'y_train.txt is missing'),
    (SIGNAL, '1 2 3\n', ValueError, 'z_test.txt .* 3 numbers, where 128'),
    (SIGNAL, '0 ' * 128 + '\n', ValueError, 'z_test.* 1 lines, where .* 8'),
    (SIGNAL, 'nan ' * 128 + '\n', ValueError, 'not all .* are finite'),
    (SIGNAL, '<html>\n', ValueError, 'z_test.txt is not as in the data set'),
    (SIGNAL, '', ValueError, 'z_test.txt .* no numbers'),
    (LABELS, '\n', ValueError, 'y_train.txt .* no numbers'),
    (LABELS, '1\n2\n', ValueError, 'y_train.txt .* 2 lines, where .* 30'),
    (LABELS, '1\n7\n' * 15, ValueError, 'y_train.txt .* other than 1 to 6'),
    (LABELS, '1.5\n' * 30, ValueError, 'y_train.txt .* other than 1 to 6'),
  ],
)
def test_har2_names_a_wrong_file(uci, path, text, error, message):
  (uci / path).unlink()
  if text is not None:
    (uci / path).write_text(text)
  with warnings.catch_warnings(), pytest.raises(error, match=message):
    warnings.simplefilter('error')
    data.load('har2', data_dir=uci)


@pytest.mark.parametrize('length', [16_000, 9_999, 17_000])
def test_log_mel_equals_the_published_implementation(length):
  published = pytest.importorskip('python_speech_features')
  audio = np.random.default_rng(length).normal(0, 2000, length)
  audio[:3000] = 0
  audio = audio.astype(np.int16)
  clip = np.zeros(16_000)
  clip[max(16_000 - length, 0) :] = audio[:16_000]
  energy, _ = published.fbank(clip, nfilt=32, winfunc=np.hamming)
  features = speech.log_mel(audio)
  assert features.shape == energy.shape == (99, 32)
  np.testing.assert_allclose(features, np.log(energy + 1e-10), rtol=1e-5)


def test_google12_reads_what_tfds_wrote(commands):
  google12 = data.load('google12', data_dir=commands)
  assert google12.image_shape == (99, 1, 32) and google12.num_classes == 12
  assert {split: google12.size(split) for split in SIZES} == SIZES
  for split, source in google12.splits.items():
    clips, labels = words(split)
    for i, record in enumerate(source[i] for i in range(len(source))):
      assert record['label'] == labels[i]
      np.testing.assert_array_equal(
        record['image'][:, 0], speech.log_mel(clips[i])
      )
  batch = next(data.train_batches(google12, 30, seed=0))
  normal = (batch['image'] - google12.mean) / google12.std
  np.testing.assert_allclose(normal.mean((0, 1, 2)), 0, atol=1e-3)
  np.testing.assert_allclose(normal.std((0, 1, 2)), 1, atol=1e-3)
  again = pickle.loads(pickle.dumps(google12)).splits['test'][0]
  np.testing.assert_array_equal(
    again['image'], google12.splits['test'][0]['image']
  )


def test_google12_can_hold_out_validation_itself(commands):
  google12 = data.load('google12', data_dir=commands, validation=6)
  assert [google12.size(s) for s in SIZES] == [24, 6, 8]


def test_google12_says_what_is_wrong(commands, tmp_path):
  with pytest.raises(FileNotFoundError, match='speech_commands, which is not'):
    data.load('google12', data_dir=tmp_path / 'nothing')
  info = commands / 'speech_commands/0.0.3/dataset_info.json'
  info.write_text('{"fileFormat": "tfrecord"}')
  with pytest.raises(FileNotFoundError, match='as tfrecord, which has no'):
    data.load('google12', data_dir=commands)


@pytest.mark.parametrize(
  ('missing', 'message'),
  [
    ('train.*-00001-of-00002', r'has 1 of 2 files: .*train.*-00001-of-00002'),
    ('validation.*-00000-of-00002', 'has 1 of 2 files: .*validation.*-00000'),
    ('test.*', 'test of speech_commands has no files in .*0.0.3'),
  ],
)
def test_google12_needs_all_of_its_files(commands, missing, message):
  folder = commands / 'speech_commands/0.0.3'
  for file in list(folder.glob(f'speech_commands-{missing}')):
    file.unlink()
  with pytest.raises(FileNotFoundError, match=message):
    data.load('google12', data_dir=commands)


@pytest.mark.parametrize(
  ('file', 'text', 'error'),
  [
    ('features.json', None, FileNotFoundError),
    ('features.json', '{}', ValueError),
    ('features.json', '{"featuresDict": ', ValueError),
    ('dataset_info.json', '', ValueError),
    ('dataset_info.json', '[]', ValueError),
    ('dataset_info.json', '{}', ValueError),
    ('speech_commands-test.array_record-00001-of-00002', '', ValueError),
  ],
)
def test_google12_names_a_damaged_file(commands, file, text, error):
  path = commands / 'speech_commands/0.0.3' / file
  path.unlink()
  if text is not None:
    path.write_text(text)
  with pytest.raises(error, match=f'{file}.*: prepare') as raised:
    data.load('google12', data_dir=commands)
  assert '\n' not in str(raised.value)


@pytest.mark.parametrize('record', [b'\xff' * 9, b''])
def test_google12_names_a_damaged_record(commands, record):
  folder = commands / 'speech_commands/0.0.3'
  path = folder / 'speech_commands-test.array_record-00000-of-00002'
  writer = array_record_module.ArrayRecordWriter(str(path), 'group_size:1')
  writer.write(record)
  writer.close()
  test = data.load('google12', data_dir=commands).splits['test']
  with pytest.raises(ValueError, match='record 0 of test of .*: prepare'):
    test[0]


@pytest.mark.parametrize('argument', [{'image_size': 8}, {'augment': 'shift'}])
def test_sequences_are_no_images(uci, argument):
  with pytest.raises(ValueError, match='har2 holds sequences, not images'):
    data.load('har2', data_dir=uci, **argument)
