"""Augmentations by name, as Grain transforms of `{'image', 'label'}` records.

Every random transform draws from the generator it is given and from nothing
else: what it does to a record depends on the seed and the record's place in
the stream alone.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import cv2
import grain
import numpy as np

Transforms = tuple[grain.transforms.Map | grain.transforms.RandomMap, ...]

_CROP_TRIES = 10
_EVAL_SCALE = 256 / 224  # the shorter side of an evaluated image, in crops


def names() -> tuple[str, ...]:
  """The names that `transforms` takes."""
  return tuple(_TRAIN)


def transforms(
  name: str,
  size: tuple[int, int],
  native_size: tuple[int | None, int | None],
) -> tuple[Transforms, Transforms]:
  """The transforms for training and for evaluation.

  Args:
    name: one of `names()`.
    size: (height, width) of the images wanted.
    native_size: that of the images as stored; None where they differ.

  Returns:
    (train, evaluation).

  Raises:
    ValueError: if the name is unknown.
  """
  if name not in _TRAIN:
    known = ', '.join(_TRAIN)
    raise ValueError(f'unknown augmentation {name!r}: choose one of {known}')
  train = _TRAIN[name](size)
  if name == 'random_resized_crop':
    return train, (ResizeCentreCrop(size),)
  resize = () if native_size == size else (Resize(size),)
  return resize + train, resize


@dataclasses.dataclass(frozen=True)
class Shift(grain.transforms.RandomMap):
  """Pads an image, crops it back at random, and may mirror it.

  Attributes:
    padding: pixels added on every side.
    border: cv2's border type: cv2.BORDER_CONSTANT pads with zeros,
      cv2.BORDER_REPLICATE with the edge's pixels.
    flip: whether half of the images are mirrored left to right.
  """

  padding: int
  border: int
  flip: bool

  def random_map(
    self, element: dict[str, Any], rng: np.random.Generator
  ) -> dict[str, Any]:
    image = element['image']
    height, width, channels = image.shape
    pad = self.padding
    y, x = rng.integers(0, 2 * pad + 1, 2)
    padded = cv2.copyMakeBorder(image, pad, pad, pad, pad, self.border)
    image = padded.reshape(height + 2 * pad, width + 2 * pad, channels)
    image = image[y : y + height, x : x + width]
    if self.flip and rng.integers(2):
      image = _mirror(image)
    return {**element, 'image': image}


class RandomResizedCrop(grain.transforms.RandomMap):
  """Crops a random part of an image, resizes it, and mirrors half of them.

  The part has a share of the area uniform in `scale` and a ratio of width to
  height log-uniform in `ratio`; after ten tries that do not fit, it is the
  largest centred one whose ratio is allowed, as in torchvision.
  """

  def __init__(
    self,
    size: tuple[int, int],
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
  ) -> None:
    self._size = size
    self._scale = scale
    self._ratio = ratio

  def random_map(
    self, element: dict[str, Any], rng: np.random.Generator
  ) -> dict[str, Any]:
    image = element['image']
    height, width = image.shape[:2]
    top, left, height, width = self._box(height, width, rng)
    image = image[top : top + height, left : left + width]
    image = _resize(image, self._size, cv2.INTER_LINEAR)
    if rng.integers(2):
      image = _mirror(image)
    return {**element, 'image': image}

  def _box(
    self, height: int, width: int, rng: np.random.Generator
  ) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the part to keep."""
    low, high = self._ratio
    for _ in range(_CROP_TRIES):
      area = height * width * rng.uniform(*self._scale)
      aspect = math.exp(rng.uniform(math.log(low), math.log(high)))
      w = round(math.sqrt(area * aspect))
      h = round(math.sqrt(area / aspect))
      if 0 < w <= width and 0 < h <= height:
        top = int(rng.integers(height - h + 1))
        return top, int(rng.integers(width - w + 1)), h, w
    w = min(width, round(height * high))
    h = min(height, round(width / low))
    return (height - h) // 2, (width - w) // 2, h, w


class Resize(grain.transforms.Map):
  """Resizes an image to (height, width), whatever its own ratio."""

  def __init__(self, size: tuple[int, int]) -> None:
    self._size = size

  def map(self, element: dict[str, Any]) -> dict[str, Any]:
    image = element['image']
    if image.shape[:2] == self._size:
      return element
    return {**element, 'image': _resize_smooth(image, self._size)}


class ResizeCentreCrop(grain.transforms.Map):
  """Resizes the shorter side to 256/224 of the crop, then crops the centre."""

  def __init__(self, size: tuple[int, int]) -> None:
    self._size = size

  def map(self, element: dict[str, Any]) -> dict[str, Any]:
    image = element['image']
    crop_height, crop_width = self._size
    height, width = image.shape[:2]
    shorter = int(max(self._size) * _EVAL_SCALE)
    ratio = shorter / min(height, width)
    # The shorter side exactly: the product may fall one short of it.
    height, width = (max(shorter, int(n * ratio)) for n in (height, width))
    image = _resize_smooth(image, (height, width))
    top = round((height - crop_height) / 2)
    left = round((width - crop_width) / 2)
    image = image[top : top + crop_height, left : left + crop_width]
    return {**element, 'image': image}


def _mirror(image: np.ndarray) -> np.ndarray:
  # Thirty times as fast as copying image[:, ::-1], which batching would do.
  return cv2.flip(image, 1).reshape(image.shape)  # cv2 drops one channel


def _resize(
  image: np.ndarray, size: tuple[int, int], interpolation: int
) -> np.ndarray:
  resized = cv2.resize(image, size[::-1], interpolation=interpolation)
  return resized.reshape(*size, image.shape[-1])  # cv2 drops one channel


def _resize_smooth(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  # Averaging areas is cv2's only resize that does not alias when it shrinks.
  shrinks = size[0] < image.shape[0]
  return _resize(image, size, cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


_TRAIN: dict[str, Callable[[tuple[int, int]], Transforms]] = {
  'none': lambda size: (),
  'shift': lambda size: (Shift(1, cv2.BORDER_CONSTANT, flip=False),),
  'crop_flip': lambda size: (Shift(4, cv2.BORDER_REPLICATE, flip=True),),
  'random_resized_crop': lambda size: (RandomResizedCrop(size),),
}
