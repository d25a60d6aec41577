"""The order of the batches, and that nothing is lost or counted twice."""

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import str_jax
from str_jax import data
from str_jax.training import placement as placements


@pytest.fixture(scope='module')
def digits():
  return data.load('digits')


@pytest.fixture(scope='module')
def plain_digits():
  return data.load('digits', augment='none')


def take(batches, count):
  return list(itertools.islice(batches, count))


def assert_same(actual, expected):
  for a, e in zip(actual, expected, strict=True):
    assert a.keys() == e.keys()
    for key in e:
      assert a[key].dtype == e[key].dtype
      np.testing.assert_array_equal(a[key], e[key])


def test_batches_are_uint8_and_int32(digits):
  batch = next(data.train_batches(digits, 16, seed=0))
  assert batch.keys() == {'image', 'label'}
  assert batch['image'].shape == (16, 8, 8, 1)
  assert batch['image'].dtype == np.uint8
  assert batch['label'].shape == (16,) and batch['label'].dtype == np.int32


def test_images_cross_to_the_device_as_bytes(digits):
  batch = next(data.train_batches(digits, 16, seed=0))
  placed = placements.create(1).put(batch)
  assert placed['image'].dtype == np.uint8
  np.testing.assert_array_equal(placed['image'], batch['image'])


def test_an_epoch_has_every_record_once(plain_digits):
  train = plain_digits.splits['train']
  expected = sorted(train[i]['image'].tobytes() for i in range(len(train)))
  # 1,197 = 9 x 133
  batches = take(data.train_batches(plain_digits, 133, seed=3), 18)
  epochs = [
    [
      image.tobytes()
      for batch in batches[i : i + 9]
      for image in batch['image']
    ]
    for i in (0, 9)
  ]
  assert [sorted(epoch) for epoch in epochs] == [expected, expected]
  assert epochs[0] != epochs[1]


def test_seed_sets_order_and_augmentation(digits, plain_digits):
  def first(dataset, seed):
    return next(data.train_batches(dataset, 64, seed=seed))

  assert_same([first(digits, 1)], [first(digits, 1)])
  assert (first(digits, 1)['label'] != first(digits, 2)['label']).any()
  # The augmentation does not change the order.
  augmented, plain = first(digits, 1), first(plain_digits, 1)
  np.testing.assert_array_equal(augmented['label'], plain['label'])
  assert (augmented['image'] != plain['image']).any()


def test_augmentation_differs_between_epochs(digits):
  epoch = len(digits.splits['train'])
  batches = take(data.train_batches(digits, epoch, seed=0), 2)
  shifted = [sorted(i.tobytes() for i in b['image']) for b in batches]
  assert shifted[0] != shifted[1]


@pytest.mark.parametrize('start_step', [1, 17, 40])
def test_resumes_at_a_step(digits, start_step):
  whole = take(data.train_batches(digits, 64, seed=5), start_step + 3)
  rest = data.train_batches(digits, 64, seed=5, start_step=start_step)
  assert_same(take(rest, 3), whole[start_step:])


@pytest.mark.parametrize('count', [2, 4])
def test_processes_interleave(digits, count):
  whole = take(data.train_batches(digits, 64, seed=5), 25)  # past an epoch
  parts = [
    take(
      data.train_batches(
        digits, 64, seed=5, process_index=i, process_count=count
      ),
      25,
    )
    for i in range(count)
  ]
  for step, expected in enumerate(whole):
    for key in expected:
      merged = np.stack([part[step][key] for part in parts], axis=1)
      np.testing.assert_array_equal(
        merged.reshape(expected[key].shape), expected[key]
      )


@pytest.mark.parametrize('workers', [1, 2])
def test_workers_do_not_change_the_batches(digits, workers):
  settings = {'seed': 5, 'start_step': 11, 'process_count': 2}
  batches = data.train_batches(digits, 64, num_workers=workers, **settings)
  expected = take(data.train_batches(digits, 64, **settings), 12)
  assert_same(take(batches, 12), expected)


@pytest.mark.parametrize('count', [1, 2, 4])
@pytest.mark.parametrize('batch_size', [8, 36, 64, 1000])
def test_evaluation_counts_every_example_once(plain_digits, batch_size, count):
  test = plain_digits.splits['test']
  batches = [
    batch
    for i in range(count)
    for batch in data.eval_batches(
      plain_digits, 'test', batch_size, process_index=i, process_count=count
    )
  ]
  assert len(batches) == count * -(-360 // batch_size)
  assert {b['image'].shape[0] for b in batches} == {batch_size // count}
  weight = np.concatenate([b['weight'] for b in batches])
  assert weight.dtype == np.float32 and weight.sum() == 360
  images = np.concatenate([b['image'] for b in batches])[weight == 1]
  assert sorted(i.tobytes() for i in images) == sorted(
    test[i]['image'].tobytes() for i in range(360)
  )


def test_evaluation_is_not_augmented_and_in_order(digits):
  test = digits.splits['test']
  batch = next(data.eval_batches(digits, 'test', 360))
  np.testing.assert_array_equal(
    batch['image'], np.stack([test[i]['image'] for i in range(360)])
  )


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'process_count': 3}, 'batch of 64 does not divide among 3'),
    ({'process_index': 1}, 'process_index=1 is not one of 1'),
    ({'start_step': -1}, 'at least 0'),
    ({'seed': -1}, 'at least 0'),
  ],
)
def test_arguments_that_do_not_fit(digits, settings, message):
  with pytest.raises(ValueError, match=message):
    data.train_batches(digits, 64, **{'seed': 0, **settings})


def test_no_such_split():
  digits = data.load('digits', validation=0)
  with pytest.raises(ValueError, match='no validation split, only train, test'):
    data.eval_batches(digits, 'validation', 8)


TRAINER = """
import multiprocessing, os, signal
from str_jax import data

if __name__ == '__main__':
  batches = data.train_batches(data.load('digits'), 8, seed=0, num_workers=2)
  for _ in range(4):
    next(batches)
  workers = multiprocessing.active_children()
  print(*[worker.pid for worker in workers], flush=True)
  os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_die_with_a_killed_trainer(tmp_path):
  script = tmp_path / 'trainer.py'
  script.write_text(TRAINER)
  trainer = subprocess.Popen(
    [sys.executable, script],
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    text=True,
    env={'PYTHONPATH': str(Path(str_jax.__file__).parents[1])},
  )
  assert trainer.stdout is not None
  workers = trainer.stdout.readline().split()
  assert len(workers) == 2
  # The workers hold the trainer's output open for as long as they live.
  try:
    trainer.communicate(timeout=10)
  except subprocess.TimeoutExpired:
    for pid in workers:
      subprocess.run(['kill', '-9', pid], check=False)
    pytest.fail('the workers outlived their trainer')
