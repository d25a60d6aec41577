"""Augmentations against their definitions."""

import pickle

import numpy as np
import pytest

from str_jax.data import augment


def ramp(height, width, channels=1):
  """An image whose pixels tell their own place."""
  rows, columns = np.mgrid[:height, :width]
  image = np.stack([rows, columns, rows + columns], axis=-1)
  return image[..., :channels].astype(np.uint8)


def draw(transform, image, count):
  """The transform's outputs for `count` generators."""
  return [
    transform.random_map(
      {'image': image, 'label': np.int32(7)}, np.random.default_rng(i)
    )
    for i in range(count)
  ]


def test_shift_is_a_crop_of_the_zero_padded_image():
  (shift,), evaluation = augment.transforms('shift', (8, 8), (8, 8))
  assert evaluation == ()
  image = ramp(8, 8) + 1
  padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
  crops = {
    padded[y : y + 8, x : x + 8].tobytes() for y in range(3) for x in range(3)
  }
  records = draw(shift, image, 100)
  assert {r['image'].tobytes() for r in records} == crops
  assert all(r['image'].shape == (8, 8, 1) for r in records)
  assert all(r['label'] == 7 for r in records)


def test_crop_flip_pads_with_the_edge_and_mirrors_half():
  (crop_flip,), _ = augment.transforms('crop_flip', (8, 8), (8, 8))
  image = ramp(8, 8, 3)
  padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode='edge')
  crops = [padded[y : y + 8, x : x + 8] for y in range(9) for x in range(9)]
  straight = {crop.tobytes() for crop in crops}
  mirrored = {crop[:, ::-1].tobytes() for crop in crops}
  out = [r['image'].tobytes() for r in draw(crop_flip, image, 400)]
  assert set(out) <= straight | mirrored
  share = np.mean([crop in mirrored - straight for crop in out])
  assert 0.4 < share < 0.6
  assert len(set(out)) > 120  # of 162


@pytest.mark.parametrize('channels', [1, 3])
def test_a_mirrored_crop_is_whole_and_contiguous(channels):
  image = ramp(9, 7, channels)[1:8, 2:]  # a view, as crops are
  mirrored = augment._mirror(image)
  np.testing.assert_array_equal(mirrored, image[:, ::-1])
  assert mirrored.flags['C_CONTIGUOUS']  # batching copies others slowly


def test_random_resized_crop_keeps_the_share_and_the_ratio():
  crop = augment.RandomResizedCrop((16, 16))
  boxes = [crop._box(80, 80, np.random.default_rng(i)) for i in range(2000)]
  tops, lefts, heights, widths = np.array(boxes).T
  assert (tops >= 0).all() and (tops + heights <= 80).all()
  assert (lefts >= 0).all() and (lefts + widths <= 80).all()
  shares = heights * widths / (80 * 80)
  assert 0.07 < shares.min() < 0.1 and 0.9 < shares.max() <= 1
  ratios = widths / heights
  assert 0.7 < ratios.min() and ratios.max() < 1.4
  assert abs(np.log(ratios).mean()) < 0.02


def test_random_resized_crop_falls_back_to_the_centre():
  crop = augment.RandomResizedCrop((16, 16))
  # No box of 8% of the area and a ratio of at least 3/4 fits into 10 x 1000.
  box = crop._box(10, 1000, np.random.default_rng(0))
  assert box == (0, (1000 - 13) // 2, 10, 13)


def test_random_resized_crop_resizes_bilinearly_and_mirrors():
  (crop,), _ = augment.transforms('random_resized_crop', (12, 12), (None, None))
  images = [r['image'] for r in draw(crop, ramp(90, 90, 3), 50)]
  assert {i.shape for i in images} == {(12, 12, 3)}
  for image in images:
    rows, columns = image[:, 0, 0].astype(int), image[0, :, 1].astype(int)
    assert (np.diff(rows) > 0).all()  # upright
    steps = np.sign(np.diff(columns))
    assert abs(steps.sum()) == 11  # in one direction: mirrored or not
  mirrored = [int(i[0, 0, 1]) > int(i[0, -1, 1]) for i in images]
  assert 10 < sum(mirrored) < 40


@pytest.mark.parametrize('shape', [(100, 50), (50, 100), (31, 47), (20, 20)])
@pytest.mark.parametrize('channels', [1, 3])
def test_evaluation_takes_the_centre(shape, channels):
  _, (transform,) = augment.transforms(
    'random_resized_crop', (28, 28), (None, None)
  )
  record = {'image': ramp(*shape, channels), 'label': np.int32(1)}
  image = transform.map(record)['image']
  assert image.shape == (28, 28, channels)
  # A ramp of rows stays one, centred, over 28/32 of the shorter side.
  assert abs(image[..., 0].mean() - (shape[0] - 1) / 2) < 1
  spread = int(image[-1, 0, 0]) - int(image[0, 0, 0])
  assert abs(spread - min(shape) * 27 / 32) < 1.6


def test_resize_only_where_the_size_differs():
  train, evaluation = augment.transforms('none', (4, 4), (8, 8))
  assert (
    [type(t) for t in train] == [augment.Resize] == [*map(type, evaluation)]
  )
  image = np.repeat(np.repeat(ramp(4, 4), 2, 0), 2, 1)
  out = evaluation[0].map({'image': image, 'label': np.int32(0)})
  np.testing.assert_array_equal(out['image'], ramp(4, 4))
  assert augment.transforms('none', (8, 8), (8, 8)) == ((), ())


def test_unknown_name():
  with pytest.raises(
    ValueError, match="'mixup': choose one of none, shift, cr"
  ):
    augment.transforms('mixup', (8, 8), (8, 8))


@pytest.mark.parametrize('name', augment.names())
def test_transforms_are_picklable(name):
  train, evaluation = augment.transforms(name, (8, 8), (None, None))
  copies = pickle.loads(pickle.dumps((train, evaluation)))
  assert [[*map(type, t)] for t in copies] == [
    [*map(type, t)] for t in (train, evaluation)
  ]
