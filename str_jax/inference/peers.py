"""The same layers in other libraries, dense, to measure against.

Neither library is needed by anything else here: both are imported when asked
for. They get the network with its norms folded in, as we have it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from str_jax.inference.network import (
  IMAGES,
  Classifier,
  Conv,
  MaxPool,
  Network,
)

Call = Callable[[], np.ndarray]


def onnx_runtime(network: Network, images: np.ndarray, threads: int) -> Call:
  """ONNX Runtime's CPU provider, with all of its graph optimisations.

  Args:
    network: the layers.
    images: (batch, height, width, channels), float32.
    threads: that it may use.

  Returns:
    A function that computes the logits of these images, which it has in the
    layout of its own.

  Raises:
    ImportError: onnx or onnxruntime is not installed.
  """
  nchw = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
  return onnx_session(_onnx(network).SerializeToString(), nchw, threads)


def onnx_session(data: bytes, images: np.ndarray, threads: int) -> Call:
  """An ONNX model of one input and one output, run as by `onnx_runtime`.

  Args:
    data: the model, as in a file.
    images: its input.
    threads: that it may use.

  Returns:
    A function that computes the output.

  Raises:
    ImportError: onnxruntime is not installed.
  """
  import onnxruntime

  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = threads
  options.inter_op_num_threads = 1
  session = onnxruntime.InferenceSession(
    data, options, providers=['CPUExecutionProvider']
  )
  feed = {session.get_inputs()[0].name: images}
  return lambda: session.run(None, feed)[0]


def pytorch(network: Network, images: np.ndarray, threads: int) -> Call:
  """PyTorch's convolutions (oneDNN), channels last, without autograd.

  Args:
    network: the layers.
    images: (batch, height, width, channels), float32.
    threads: that it may use.

  Returns:
    A function that computes the logits of these images, which it has in the
    layout of its own.

  Raises:
    ImportError: torch is not installed.
  """
  import torch
  from torch.nn import functional

  torch.set_num_threads(threads)
  last = torch.channels_last
  weights: dict[str, tuple[Any, ...]] = {}
  for node in network:
    if isinstance(node, Conv):
      kernel = torch.from_numpy(_theirs(node.kernel))
      kernel = kernel.contiguous(memory_format=last)
      weights[node.name] = kernel, torch.from_numpy(node.bias)
    elif isinstance(node, Classifier):
      kernel = torch.from_numpy(np.ascontiguousarray(node.kernel.T))
      weights[node.name] = kernel, torch.from_numpy(node.bias)

  def layer(node: Any, made: dict[str, Any]) -> Any:
    x = made[node.source]
    if isinstance(node, MaxPool):
      return functional.max_pool2d(x, 3, 2, 1)
    if isinstance(node, Classifier):
      return functional.linear(x.mean((2, 3)), *weights[node.name])
    y = functional.conv2d(
      x,
      *weights[node.name],
      stride=node.stride,
      padding=node.kernel.shape[0] // 2,
      groups=node.kernel.shape[3] if node.depthwise else 1,
    )
    if node.add is not None:
      y += made[node.add]
    return y.relu_() if node.relu else y

  nchw = torch.from_numpy(images).permute(0, 3, 1, 2)
  nchw = nchw.contiguous(memory_format=last)

  def run() -> np.ndarray:
    with torch.inference_mode():
      made = {IMAGES: nchw}
      for node in network:
        made[node.name] = layer(node, made)
      return made[network[-1].name].numpy()

  return run


def _theirs(kernel: np.ndarray) -> np.ndarray:
  """(height, width, in, out) as (out, in, height, width)."""
  return np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))


def _onnx(network: Network) -> Any:
  """The network as an ONNX model."""
  import onnx
  from onnx import helper, numpy_helper

  nodes, weights = [], []

  def constant(name: str, value: np.ndarray) -> str:
    weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    return name

  def emit(kind: str, inputs: list[str], output: str, **settings: Any) -> str:
    nodes.append(helper.make_node(kind, inputs, [output], **settings))
    return output

  for node in network:
    name = node.name
    if isinstance(node, MaxPool):
      window = {'kernel_shape': [3, 3], 'strides': [2, 2], 'pads': [1] * 4}
      emit('MaxPool', [node.source], name, **window)
      continue
    bias = constant(f'{name}/bias', node.bias)
    if isinstance(node, Classifier):
      x = emit('GlobalAveragePool', [node.source], f'{name}/mean')
      x = emit('Flatten', [x], f'{name}/flat')
      kernel = constant(f'{name}/kernel', node.kernel)
      emit('Gemm', [x, kernel, bias], name)
      continue
    kernel = constant(f'{name}/kernel', _theirs(node.kernel))
    size = node.kernel.shape[0]
    made = emit(
      'Conv',
      [node.source, kernel, bias],
      f'{name}/conv' if node.relu or node.add is not None else name,
      kernel_shape=[size, size],
      strides=[node.stride] * 2,
      pads=[size // 2] * 4,
      group=node.kernel.shape[3] if node.depthwise else 1,
    )
    if node.add is not None:
      total = f'{name}/sum' if node.relu else name
      made = emit('Add', [made, node.add], total)
    if node.relu:
      emit('Relu', [made], name)
  floats = onnx.TensorProto.FLOAT
  images = helper.make_tensor_value_info(IMAGES, floats, [None] * 4)
  logits = helper.make_tensor_value_info(network[-1].name, floats, None)
  graph = helper.make_graph(nodes, 'network', [images], [logits], weights)
  opset = [helper.make_opsetid('', 17)]
  return helper.make_model(graph, opset_imports=opset, ir_version=8)
