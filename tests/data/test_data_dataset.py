"""`load`: digits, fake, and what a user can get wrong."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import str_jax
from str_jax import data


def arrays(source):
  records = [source[i] for i in range(len(source))]
  images = np.stack([r['image'] for r in records])
  return images, np.array([r['label'] for r in records])


def test_digits_split():
  digits = data.load('digits')
  parts = {split: arrays(source) for split, source in digits.splits.items()}
  assert {k: len(v[0]) for k, v in parts.items()} == {
    'train': 1197,
    'validation': 240,
    'test': 360,
  }
  for images, labels in parts.values():
    assert images.shape[1:] == digits.image_shape == (8, 8, 1)
    assert images.dtype == np.uint8 and images.max() == 16
    counts = np.bincount(labels, minlength=10)
    assert counts.max() - counts.min() <= 0.15 * counts.mean()  # stratified
  everything = np.concatenate([images for images, _ in parts.values()])
  from sklearn.datasets import load_digits

  assert sorted(i.tobytes() for i in everything) == sorted(
    i.astype(np.uint8).tobytes() for i in load_digits().images
  )
  images = parts['train'][0]
  np.testing.assert_allclose(digits.mean, images.mean())
  np.testing.assert_allclose(digits.std, images.std())


def test_digits_validation_is_the_users_choice():
  sizes = {
    validation: [
      source and len(source)
      for source in data.load('digits', validation=validation).splits.values()
    ]
    for validation in (0, 100)
  }
  assert sizes == {0: [1437, None, 360], 100: [1337, 100, 360]}


def test_fake():
  fake = data.load(
    'fake', image_size=6, fake_classes=3, fake_examples=50, validation=10
  )
  assert fake.image_shape == (6, 6, 3) and fake.num_classes == 3
  train, validation, test = (arrays(s) for s in fake.splits.values())
  assert [len(x[0]) for x in (train, validation, test)] == [40, 10, 5]
  assert train[0].dtype == np.uint8 and set(train[1]) == {0, 1, 2}
  assert len({i.tobytes() for i in train[0]}) == 40
  again = data.load(
    'fake', image_size=6, fake_classes=3, fake_examples=50, validation=10
  )
  for images, labels in (
    train,
    arrays(pickle.loads(pickle.dumps(again)).splits['train']),
  ):
    np.testing.assert_array_equal(images, train[0])
    np.testing.assert_array_equal(labels, train[1])


@pytest.mark.parametrize(
  ('name', 'settings', 'message'),
  [
    ('digits', {'augment': 'mixup'}, "unknown augmentation 'mixup'"),
    ('digits', {'validation': 1437}, 'from 0 to 1436'),
    ('digits', {'validation': -1}, 'validation=-1 images cannot be held out'),
    ('fake', {'fake_examples': 10, 'validation': 10}, 'from 0 to 9'),
    ('fake', {'image_size': 0}, 'image_size is at least 1, but is 0'),
    ('fake', {'fake_classes': 0}, 'fake_classes .* at least 1'),
  ],
)
def test_arguments_that_do_not_fit(name, settings, message):
  with pytest.raises(ValueError, match=message):
    data.load(name, **settings)


def test_digits_of_another_size():
  digits = data.load('digits', image_size=16)
  batch = next(data.train_batches(digits, 4, seed=0))
  assert batch['image'].shape == (4, 16, 16, 1)


def test_names():
  assert {'digits', 'fake', 'cifar10', 'imagenet2012'} <= set(data.names())
  with pytest.raises(AttributeError, match="no attribute 'loads'"):
    data.loads  # noqa: B018


def test_import_is_light_and_needs_no_tensorflow():
  """What a worker imports, apart from the package str_jax itself."""
  root = Path(str_jax.__file__).parent
  code = f"""
import sys, types
package = types.ModuleType('str_jax')
package.__path__ = [{str(root)!r}]
sys.modules['str_jax'] = package
import str_jax.data
heavy = ['jax', 'grain', 'tensorflow_datasets', 'cv2', 'numpy', 'sklearn']
assert not [m for m in heavy if m in sys.modules], 'at import'
digits = str_jax.data.load('digits')
next(str_jax.data.train_batches(digits, 4, seed=0))
assert 'tensorflow' not in sys.modules
assert 'tensorflow_datasets' not in sys.modules
"""
  subprocess.run([sys.executable, '-c', code], check=True)


@pytest.mark.skipif(
  not Path(os.environ.get('TFDS_DATA_DIR', 'nowhere'), 'cifar10').exists(),
  reason='needs cifar10 in TFDS_DATA_DIR',
)
def test_real_cifar10():
  cifar10 = data.load('cifar10', validation=5000)
  assert [len(s) for s in cifar10.splits.values()] == [45000, 5000, 10000]
  validation = cifar10.splits['validation']
  labels = [validation[i]['label'] for i in range(5000)]
  counts = np.bincount(labels, minlength=10)
  assert 400 < counts.min() and counts.max() < 600
  batch = next(data.train_batches(cifar10, 256, seed=0))
  assert batch['image'].shape == (256, 32, 32, 3)
  mean = batch['image'].mean((0, 1, 2))
  np.testing.assert_allclose(mean, cifar10.mean, atol=12)
