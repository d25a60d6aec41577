"""The sets that papers report on: what is usual for each."""

import dataclasses

FOLDER = 'imagefolder'  # see folder.py
SEQUENCES = ('har2', 'google12')  # see sequences.py


@dataclasses.dataclass(frozen=True)
class Known:
  """What TFDS's files do not say of a set.

  Attributes:
    mean: one number a channel, in pixel units.
    std: likewise.
    augment: the usual augmentation.
    original_is_jpeg: whether TFDS's own records are JPEG.
    image_size: the usual one, where the images differ in size.
    test: the split that accuracies are reported on.
  """

  mean: tuple[float, ...]
  std: tuple[float, ...]
  augment: str
  original_is_jpeg: bool = False
  image_size: int | None = None
  test: str = 'test'


def _pixels(*fractions: float) -> tuple[float, ...]:
  return tuple(255 * x for x in fractions)


KNOWN = {
  'cifar10': Known(
    mean=_pixels(0.4914, 0.4822, 0.4465),
    std=_pixels(0.2470, 0.2435, 0.2616),
    augment='crop_flip',
  ),
  'cifar100': Known(
    mean=_pixels(0.5071, 0.4865, 0.4409),
    std=_pixels(0.2673, 0.2564, 0.2762),
    augment='crop_flip',
  ),
  'imagenet2012': Known(
    mean=_pixels(0.485, 0.456, 0.406),
    std=_pixels(0.229, 0.224, 0.225),
    augment='random_resized_crop',
    original_is_jpeg=True,
    image_size=224,
    test='validation',  # the labels of its test split are not published
  ),
}
