"""`load`: an image classification set by name."""

import dataclasses
import os

import numpy as np

from str_jax.data import augment as augmentations
from str_jax.data.known import FOLDER, KNOWN, SEQUENCES
from str_jax.data.sources import Arrays, Fake, Source
from str_jax.data.splits import check_validation, hold_out, own_splits

_GENERIC_MEAN, _GENERIC_STD = 127.5, 63.75
_JPEG_MAGIC = b'\xff\xd8'
_DIGITS_TEST, _DIGITS_VALIDATION = 360, 240


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A set, its splits, and what is done to its records.

  Attributes:
    name: as given to `load`.
    num_classes: labels lie in [0, num_classes).
    image_shape: (H, W, C) of a batch's images.
    mean: one number a channel, in pixel units (0 to 255; digits: 0 to 16).
      Batches stay as stored, uint8 or the float32 of sequences: the training
      step normalises on the device.
    std: likewise.
    splits: 'train', 'validation' (or None) and 'test', each a `Source`.
    train_transforms: Grain transforms after decoding, for training.
    eval_transforms: the same for evaluation.
    note: a sentence to show beside accuracies; mostly ''.
  """

  name: str
  num_classes: int
  image_shape: tuple[int, int, int]
  mean: tuple[float, ...]
  std: tuple[float, ...]
  splits: dict[str, Source | None]
  train_transforms: augmentations.Transforms
  eval_transforms: augmentations.Transforms
  note: str = ''

  def size(self, split: str) -> int:
    """The number of examples of a split, 0 where there is no such split."""
    source = self.splits.get(split)
    return 0 if source is None else len(source)


def names() -> tuple[str, ...]:
  """The names `load` knows best; any other is looked for as a TFDS set."""
  return ('digits', 'fake', FOLDER, *KNOWN, *SEQUENCES)


def load(
  name: str,
  *,
  data_dir: str | os.PathLike[str] | None = None,
  image_size: int | None = None,
  validation: int | None = None,
  augment: str | None = None,
  fake_classes: int = 1000,
  fake_examples: int = 10_000,
) -> Dataset:
  """Loads a set by name.

  `digits` comes with scikit-learn (1,797 real images of 8 x 8, values 0 to
  16), `fake` is generated, `har2` and `google12` are sequences of float32
  features in the place of images, read from the UCI archive's files and from
  TFDS's speech_commands; `imagefolder` are the images in the folders
  train/CLASS and val/CLASS or test/CLASS of data_dir; anything else is read
  from TFDS's array_record files: `cifar10`, `imagenet2012`,
  `NAME/CONFIG:VERSION`.

  Args:
    name: the set.
    data_dir: where TFDS's sets and `UCI HAR Dataset` lie, or the folder of
      images; on this disk, or at gs:// and such. None: TFDS_DATA_DIR, else
      ~/tensorflow_datasets.
    image_size: height and width of a batch's images; None: the set's own.
    validation: images held out of the training split, chosen once for all by
      a fixed permutation; 0: none. None: the set's own choice, 240 for
      digits (1,197 stay for training), the split validation of google12
      and of sets that have a split test too, 0 for all others.
    augment: 'none', 'shift', 'crop_flip' or 'random_resized_crop'; None: the
      set's own.
    fake_classes: classes of `fake`.
    fake_examples: training images of `fake`; a tenth as many for testing.

  Returns:
    The set.

  Raises:
    FileNotFoundError: if the set is not on this disk.
    ValueError: if an argument does not fit the set.

  >>> digits = load('digits')
  >>> digits.image_shape, digits.num_classes
  ((8, 8, 1), 10)
  >>> {split: len(source) for split, source in digits.splits.items()}
  {'train': 1197, 'validation': 240, 'test': 360}
  """
  if image_size is not None and image_size < 1:
    raise ValueError(f'image_size is at least 1, but is {image_size}')
  if name == 'digits':
    return _digits(image_size, validation, augment)
  if name == 'fake':
    return _fake(
      image_size or 224, validation or 0, augment, fake_classes, fake_examples
    )
  if name in SEQUENCES:
    from str_jax.data import prepared, sequences

    folder = prepared.data_folder(data_dir)
    return sequences.load(name, folder, image_size, validation, augment)
  if name == FOLDER:
    return _image_folder(data_dir, image_size, validation, augment)
  return _tfds(name, data_dir, image_size, validation, augment)


def _digits(
  image_size: int | None, validation: int | None, augment: str | None
) -> Dataset:
  from sklearn.datasets import load_digits
  from sklearn.model_selection import train_test_split

  held_out = _DIGITS_VALIDATION if validation is None else validation
  digits = load_digits()
  images = digits.images.astype(np.uint8)[..., np.newaxis]
  labels = digits.target.astype(np.int32)

  def split(indices: np.ndarray, n: int) -> list[np.ndarray]:
    return train_test_split(
      indices, test_size=n, stratify=labels[indices], random_state=0
    )

  train, test = split(np.arange(len(labels)), _DIGITS_TEST)
  check_validation(held_out, len(train))
  parts = {'train': train, 'validation': None, 'test': test}
  if held_out:
    parts['train'], parts['validation'] = split(train, held_out)
  pixels = images[parts['train']]
  return _dataset(
    'digits',
    10,
    images.shape[1:],
    {
      key: None if part is None else Arrays(images[part], labels[part])
      for key, part in parts.items()
    },
    size=image_size,
    augment=augment or 'shift',
    mean=(float(pixels.mean()),),
    std=(float(pixels.std()),),
  )


def _fake(
  size: int, validation: int, augment: str | None, classes: int, examples: int
) -> Dataset:
  if classes < 1 or examples < 1:
    raise ValueError(
      'fake_classes and fake_examples are at least 1, but are '
      f'{classes} and {examples}'
    )
  shape = (size, size, 3)
  train = Fake(shape, classes, examples, seed=0)
  test = Fake(shape, classes, max(1, examples // 10), seed=1)
  splits = hold_out(train, validation, test)
  return _dataset('fake', classes, shape, splits, augment=augment or 'none')


def _tfds(
  name: str,
  data_dir: str | os.PathLike[str] | None,
  image_size: int | None,
  validation: int | None,
  augment: str | None,
) -> Dataset:
  from str_jax.data import prepared  # TFDS: a third of a second

  builder = prepared.open_set(name, prepared.data_folder(data_dir))
  known = KNOWN.get(builder.name)
  features = builder.info.features
  if not {'image', 'label'} <= set(features) or not hasattr(
    features['label'], 'num_classes'
  ):
    raise ValueError(
      f'{name} is not a set of images with one class each: its records have '
      f'{", ".join(features)}, where image and label were wanted'
    )
  test_names = (known.test,) if known else ('test', 'validation')
  test_name = next((s for s in test_names if s in builder.info.splits), None)
  if test_name is None or 'train' not in builder.info.splits:
    raise ValueError(
      f'{name} has the splits {", ".join(builder.info.splits)}, where train '
      f'and {" or ".join(test_names)} were wanted'
    )
  sources = {
    split: prepared.source(builder, split)
    for split in dict.fromkeys(('train', 'validation', test_name))
    if split in builder.info.splits
  }
  size = image_size or (known.image_size if known else None)
  note = ''
  if known and not known.original_is_jpeg:
    if sources['train'][0]['image'].startswith(_JPEG_MAGIC):
      note = (
        f'These images are JPEG re-encodings of {builder.name}: accuracies '
        'are a little below those on the original set.'
      )
  return _dataset(
    name,
    features['label'].num_classes,
    features['image'].shape,
    own_splits(sources, test_name, validation),
    size=size,
    augment=augment or (known.augment if known else None),
    mean=known.mean if known else None,
    std=known.std if known else None,
    note=note,
  )


def _image_folder(
  data_dir: str | os.PathLike[str] | None,
  image_size: int | None,
  validation: int | None,
  augment: str | None,
) -> Dataset:
  from str_jax.data import folder, places  # TFDS

  if data_dir is None:
    raise ValueError(
      f'{FOLDER} wants data_dir, the folder that holds train and val: '
      'name it by --config.data_dir=DIR'
    )
  found = folder.read(places.place(data_dir))
  sources: dict[str, Source] = {**found.splits}
  test = 'test' if 'test' in sources else 'validation'
  return _dataset(
    FOLDER,
    len(found.classes),
    (None, None, 3),
    own_splits(sources, test, validation),
    size=image_size or 224,
    augment=augment,
    note=' '.join(found.notes),
  )


def _dataset(
  name: str,
  num_classes: int,
  native_shape: tuple[int | None, int | None, int | None],
  splits: dict[str, Source | None],
  *,
  size: int | None = None,
  augment: str | None = None,
  mean: tuple[float, ...] | None = None,
  std: tuple[float, ...] | None = None,
  note: str = '',
) -> Dataset:
  """Fills in what the caller leaves open."""
  height, width, channels = native_shape
  channels = channels or 3
  if channels not in (1, 3):
    raise ValueError(
      f'{name} has images of {channels} channels, where 1 or 3 were wanted'
    )
  if size is not None:
    height = width = size
  if height is None or width is None:
    raise ValueError(
      f'the images of {name} differ in size: say which to use by image_size='
    )
  if augment is None:
    augment = 'crop_flip' if max(height, width) <= 64 else 'random_resized_crop'
  if mean is None and native_shape == (None, None, 3):  # photographs
    mean, std = KNOWN['imagenet2012'].mean, KNOWN['imagenet2012'].std
  train_transforms, eval_transforms = augmentations.transforms(
    augment, (height, width), native_shape[:2]
  )
  return Dataset(
    name=name,
    num_classes=num_classes,
    image_shape=(height, width, channels),
    mean=mean or (_GENERIC_MEAN,) * channels,
    std=std or (_GENERIC_STD,) * channels,
    splits=splits,
    train_transforms=train_transforms,
    eval_transforms=eval_transforms,
    note=note,
  )
