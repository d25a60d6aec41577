"""A trained network as a StableHLO program, which JAX runs without its code."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from str_jax.calls import call_arguments

PLATFORMS = ('cpu', 'cuda', 'tpu')


def write(
  path: str | pathlib.Path,
  model: Any,
  variables: Any,
  image_shape: tuple[int, int, int],
  batch: int | None = None,
  **kwargs: Any,
) -> float:
  """Writes the forward pass with its weights, by `jax.export`.

  Any program with JAX runs it, on a CPU, a GPU or a TPU, without Flax and
  without this library: `jax.export.deserialize(bytes).call(images)`.

  Args:
    path: the file.
    model: a dense Linen model.
    variables: its Linen collections.
    image_shape: (height, width, channels) of an image, NHWC in a batch.
    batch: images a call; None leaves it open.
    **kwargs: for the model's call; `train` is False unless given, where the
      model knows it.

  Returns:
    The largest difference of a logit between the file and the model, on
    random images.

  Raises:
    OSError: the file cannot be written.
    ValueError: no Linen model, or the package flatbuffers is missing.
  """
  try:
    import flatbuffers  # noqa: F401  jax.export writes with it
  except ModuleNotFoundError as error:
    raise ValueError(
      'a stablehlo file needs the package flatbuffers, which is not installed: '
      "in the checkout of str_jax, pip install -e '.[train,onnx]'."
    ) from error
  kwargs = call_arguments(model, kwargs)

  def logits(images: jax.Array) -> jax.Array:
    return model.apply(variables, images, **kwargs)

  (size,) = (batch,) if batch else jax.export.symbolic_shape('batch')
  exported = jax.export.export(jax.jit(logits), platforms=PLATFORMS)(
    jax.ShapeDtypeStruct((size, *image_shape), jnp.float32)
  )
  data = bytes(exported.serialize())
  images = check_images(image_shape, batch)
  again = jax.export.deserialize(bytearray(data)).call(images)
  difference = float(np.abs(again - jax.jit(logits)(images)).max())
  pathlib.Path(path).write_bytes(data)
  return difference


def check_images(
  image_shape: tuple[int, int, int], batch: int | None
) -> np.ndarray:
  """Random images to check a written program on, normalised as real ones."""
  rng = np.random.default_rng(0)
  return rng.standard_normal((batch or 3, *image_shape), np.float32)
