"""A trained network as an ONNX model, by the package jax2onnx."""

from __future__ import annotations

import contextlib
import logging
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from str_jax.calls import call_arguments
from str_jax.interop.stablehlo import check_images
from str_jax.models.base import ImageClassifier

TOLERANCE = 1e-4  # of the largest logit, or of 1
INPUT, OUTPUT = 'images', 'logits'


def write(
  path: str | pathlib.Path,
  model: Any,
  variables: Any,
  image_shape: tuple[int, int, int],
  batch: int | None = None,
  **kwargs: Any,
) -> float:
  """Writes the forward pass with its weights, and runs what was written.

  The model's input is `images`, NHWC, its output `logits`, both float32.

  Args:
    path: the file.
    model: a dense Linen model.
    variables: its Linen collections.
    image_shape: (height, width, channels) of an image.
    batch: images a call; None leaves it open.
    **kwargs: for the model's call; `train` is False unless given, where the
      model knows it.

  Returns:
    The largest difference of a logit between ONNX Runtime and the model, on
    random images.

  Raises:
    OSError: the file cannot be written.
    ValueError: no Linen model, a package is missing, the model cannot be
      converted, or ONNX Runtime gives other logits.
  """
  # jax2onnx logs a traceback of each plugin that does not fit this JAX.
  logging.getLogger('jax2onnx').setLevel(logging.ERROR)
  jax2onnx, onnxruntime = _packages()
  kwargs = call_arguments(model, kwargs)
  if isinstance(model, ImageClassifier):  # whose pool may be a faster one
    model = model.clone(max_pool=lambda *args, **kw: nn.max_pool(*args, **kw))

  def logits(images: jax.Array) -> jax.Array:
    with _padding_apart():
      return model.apply(variables, images, **kwargs)

  # What is wrong with the call is not jax2onnx's doing.
  jax.eval_shape(logits, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
  try:
    proto = jax2onnx.to_onnx(
      logits,
      inputs=[(batch or 'batch', *image_shape)],
      model_name=type(model).__name__,
      input_names=[INPUT],
      output_names=[OUTPUT],
    )
  except (NotImplementedError, TypeError, ValueError) as error:
    reason = str(error).splitlines()[0]
    raise ValueError(
      f'jax2onnx cannot convert this {type(model).__name__} '
      f'({type(error).__name__}: {reason}): export it to stablehlo.'
    ) from error
  del proto.graph.value_info[:]  # shapes in between, some in another layout
  data = proto.SerializeToString()
  images = check_images(image_shape, batch)
  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = 1
  session = onnxruntime.InferenceSession(
    data, options, providers=['CPUExecutionProvider']
  )
  (theirs,) = session.run([OUTPUT], {INPUT: images})
  with jax.default_matmul_precision('highest'):
    ours = np.asarray(jax.jit(logits)(images))
  difference = float(np.abs(theirs - ours).max())
  if not difference <= TOLERANCE * max(1, np.abs(ours).max()):
    raise ValueError(
      f'ONNX Runtime gives other logits than JAX, by {difference:.1e}: try '
      'another version of jax2onnx, or export to stablehlo.'
    )
  pathlib.Path(path).write_bytes(data)
  return difference


def _packages() -> tuple[Any, Any]:
  try:
    import jax2onnx
    import onnxruntime
  except ModuleNotFoundError as error:
    raise ValueError(
      f'a .onnx file needs the package {error.name}, which is not installed: '
      "in the checkout of str_jax, pip install -e '.[train,onnx]'."
    ) from error
  return jax2onnx, onnxruntime


@contextlib.contextmanager
def _padding_apart() -> Iterator[None]:
  """Flax's max-pool pads before it: jax2onnx leaves out borders in numbers."""
  max_pool = nn.max_pool  # by now jax2onnx's

  def padded(
    inputs: jax.Array,
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: Any = 'VALID',
  ) -> jax.Array:
    if not isinstance(padding, str):
      borders = ((0, 0), *padding, (0, 0))
      inputs = jnp.pad(inputs, borders, constant_values=-jnp.inf)
      padding = 'VALID'
    return max_pool(
      inputs, window_shape=window_shape, strides=strides, padding=padding
    )

  nn.max_pool = padded
  try:
    yield
  finally:
    nn.max_pool = max_pool
