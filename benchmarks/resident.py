"""Small images that never leave the device, and the steps made with them.

All images lie on the device, are shuffled, padded, cropped and mirrored there,
an epoch's steps are one compiled loop around the trainer's own step, and seeds
train side by side by vmap. The batches of a step depend on its number and the
seed alone.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from str_jax import data
from str_jax.data.augment import Shift
from str_jax.data.sources import Decoded
from str_jax.training import state as states
from str_jax.training import step as steps
from str_jax.training.stage import Stage
from str_jax.training.state import State

Images = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Resident:
  """A data set, and its splits on the device."""

  dataset: data.Dataset
  splits: dict[str, Images]


def shift_of(dataset: data.Dataset) -> Shift:
  """How a data set's images are augmented.

  Raises:
    ValueError: otherwise than it is done here.
  """
  transforms = dataset.train_transforms
  if len(transforms) != 1 or not isinstance(transforms[0], Shift):
    raise ValueError(
      "on the device images are padded, cropped and mirrored ('shift' or "
      f"'crop_flip'), but {dataset.name} is trained on with another "
      'augmentation: set augment.'
    )
  return transforms[0]


def load(config: Any) -> Resident:
  """A config's data set, decoded once for the configs that share it.

  Raises:
    ValueError: its augmentation is another than the one done here.
  """
  names = ('dataset', 'data_dir', 'image_size', 'validation', 'augment')
  return _load(*(config[name] for name in names))


@functools.cache
def _load(
  name: str,
  data_dir: str | None,
  image_size: int | None,
  validation: int | None,
  augment: str | None,
) -> Resident:
  dataset = data.load(
    name,
    data_dir=data_dir,
    image_size=image_size,
    validation=validation,
    augment=augment,
  )
  shift_of(dataset)  # looks whether it can be done
  splits = {
    split: on_device(dataset, split)
    for split, source in dataset.splits.items()
    if source is not None
  }
  return Resident(dataset, splits)


def on_device(dataset: data.Dataset, split: str) -> Images:
  """All images and labels of a split."""
  source = dataset.splits[split]
  assert source is not None
  decoded = Decoded(source, split, dataset.image_shape[-1])
  records = [decoded[i] for i in range(len(decoded))]
  return {
    key: jax.device_put(np.stack([r[key] for r in records]))
    for key in ('image', 'label')
  }


def orders(
  seed: jax.Array, first_epoch: jax.Array, epochs: int, size: int
) -> jax.Array:
  """The images' order in some epochs, one after the other."""
  key = jax.random.fold_in(jax.random.key(seed), 0)
  shuffle = lambda epoch: jax.random.permutation(
    jax.random.fold_in(key, epoch), size
  )
  return jax.vmap(shuffle)(first_epoch + jnp.arange(epochs)).reshape(-1)


def augment(
  key: jax.Array, images: jax.Array, index: jax.Array, shift: Shift
) -> jax.Array:
  """Images by their index, shifted at random; half mirrored, if asked."""
  moves, mirror = jax.random.split(key)
  pad = shift.padding
  at = jax.random.randint(moves, (2, len(index)), -pad, pad + 1)
  flipped = jax.random.bernoulli(mirror, shape=index.shape) & shift.flip
  return shifted(images, index, at, flipped, shift.border)


def shifted(
  images: jax.Array,
  index: jax.Array,
  at: jax.Array,
  flipped: jax.Array,
  border: int,
) -> jax.Array:
  """Images by their index, moved by ``at`` [2, n] and mirrored if asked.

  What is shifted in is as cv2's border type says: zeros, or the edge again.
  """
  height, width = images.shape[1:3]
  x = jnp.arange(width)[None]
  x = jnp.where(flipped[:, None], width - 1 - x, x) + at[1][:, None]
  y = jnp.arange(height)[None] + at[0][:, None]
  rows, columns = jnp.clip(y, 0, height - 1), jnp.clip(x, 0, width - 1)
  out = images[index[:, None, None], rows[:, :, None], columns[:, None, :]]
  if border == cv2.BORDER_REPLICATE:
    return out
  inside = (rows == y)[:, :, None] & (columns == x)[:, None, :]
  return jnp.where(inside[..., None], out, jnp.zeros_like(out))


def batch_of(
  images: Images,
  seed: jax.Array,
  step: jax.Array,
  order: jax.Array,
  first_epoch: jax.Array,
  batch_size: int,
  shift: Shift,
) -> dict[str, jax.Array]:
  """The batch of a step: the stream of shuffled epochs, cut into batches.

  Args:
    images: the training split.
    seed: of order and augmentation.
    step: number of updates made before.
    order: of ``orders``, from ``first_epoch`` on.
    first_epoch: see there.
    batch_size: images a step.
    shift: the augmentation.

  Returns:
    What the trainer's step takes.
  """
  size = len(images['label'])
  place = step * batch_size + jnp.arange(batch_size) - first_epoch * size
  index = order[place]
  key = jax.random.fold_in(jax.random.key(seed), 1)
  key = jax.random.fold_in(key, step)
  image = augment(key, images['image'], index, shift)
  return {'image': image, 'label': images['label'][index]}


def make_steps(
  config: Any, stage: Stage, dataset: data.Dataset, length: int
) -> Callable[[State, jax.Array, Images], State]:
  """So many steps of all seeds, as one compiled program.

  Args:
    config: a config.
    stage: a phase of its plan.
    dataset: the data set.
    length: number of steps.

  Returns:
    A function from the seeds' states (taken), the seeds and the training
    images to the new states, with the sums of these steps.
  """
  size, batch_size = dataset.size('train'), config.batch_size
  epochs = -(-(length * batch_size + size - 1) // size)
  shift = shift_of(dataset)

  def one(state: State, seed: jax.Array, images: Images) -> State:
    train_step = steps.make_train_step(
      stage.model,
      stage.method,
      stage.tx,
      dataset,
      label_smoothing=config.label_smoothing,
      seed=seed,
    )
    first = state.step * batch_size // size
    order = orders(seed, first, epochs, size)

    def body(state: State, _: None) -> tuple[State, None]:
      batch = batch_of(
        images, seed, state.step, order, first, batch_size, shift
      )
      return train_step(state, batch), None

    state = dataclasses.replace(state, sums=states.zero_sums())
    return jax.lax.scan(body, state, None, length)[0]

  return jax.jit(jax.vmap(one, in_axes=(0, 0, None)), donate_argnums=0)
