"""Which channels of a network are constant, and which are needed."""

from __future__ import annotations

import numpy as np

from str_jax.compaction.flow import Flow

Leaves = dict[str, np.ndarray]  # by path, as 'params/stem/kernel'


def kernel(layer: str) -> str:
  """The path of a layer's weight."""
  return f'params/{layer}/kernel'


def norm(layer: str) -> tuple[str, str, str, str]:
  """The paths of a BatchNorm's mean, variance, scale and bias."""
  stats, params = f'batch_stats/{layer}', f'params/{layer}'
  return f'{stats}/mean', f'{stats}/var', f'{params}/scale', f'{params}/bias'


def taps(weight: np.ndarray, values: np.ndarray) -> np.ndarray:
  """What constant channels add to a layer's outputs, by kernel position.

  Args:
    weight: kernel ``(height, width, in, out)``, or ``(in, out)``.
    values: the constants ``(in,)``.

  Returns:
    An array ``(height, width, out)``.
  """
  if weight.ndim == 2:
    weight = weight[np.newaxis, np.newaxis]
  return np.einsum('hwio,i->hwo', weight.astype('d'), values)


def middle(taps: np.ndarray) -> np.ndarray:
  """The part of taps that is inside the image wherever the kernel stands."""
  return taps[taps.shape[0] // 2, taps.shape[1] // 2]


def edges(taps: np.ndarray) -> np.ndarray:
  """Whether taps have a part that zero padding cuts off at the border."""
  return np.count_nonzero(taps, axis=(0, 1)) > (middle(taps) != 0)


def constants(flow: Flow, leaves: Leaves, epsilon: float) -> list[np.ndarray]:
  """The value of every channel of every tensor; NaN where it is not constant.

  Args:
    flow: of the model.
    leaves: dense variables.
    epsilon: of the norms.

  Returns:
    An array ``(channels,)`` for each tensor, for any images.
  """
  values: list[np.ndarray] = []
  for i, op in enumerate(flow.ops):
    x = [values[source] for source in op.inputs]
    if op.kind == 'images':
      first = next(op.layer for op in flow.ops if op.kind == 'conv')
      values.append(np.full(leaves[kernel(first)].shape[-2], np.nan))
    elif op.kind in ('conv', 'depthwise', 'dense'):
      y = _convolved(leaves[kernel(op.layer)], x[0], op.kind == 'depthwise')
      # Where no norm follows, nothing can take what is folded.
      folds = op.kind == 'dense' or flow.own_norm(i)
      values.append(y if folds else np.where(y == 0, 0, np.nan))
    elif op.kind == 'norm':
      values.append(_normed(x[0], op.layer, leaves, epsilon))
    else:
      values.append(np.maximum(x[0], 0) if op.kind == 'relu' else x[0] + x[1])
  return values


def _convolved(w: np.ndarray, x: np.ndarray, depthwise: bool) -> np.ndarray:
  varies, known = np.isnan(x), np.where(np.isnan(x), 0, x)
  if depthwise:
    added = w[:, :, 0].astype('d') * known
    reads = np.any(w != 0, axis=(0, 1, 2)) & varies
  else:
    added = taps(w, known)
    reads = np.any(w[..., varies, :] != 0, axis=tuple(range(w.ndim - 1)))
  return np.where(reads | edges(added), np.nan, middle(added))


def _normed(
  x: np.ndarray, layer: str, leaves: Leaves, epsilon: float
) -> np.ndarray:
  mean, var, scale, bias = (leaves[path].astype('d') for path in norm(layer))
  y = (x - mean) * scale / np.sqrt(var + epsilon) + bias
  return np.where(scale == 0, bias, y)


def needed(
  flow: Flow, leaves: Leaves, values: list[np.ndarray]
) -> dict[int, np.ndarray]:
  """The channels on which the logits depend, as images vary.

  A channel is needed where a filter that writes a needed channel, or the
  classifier, reads it and it is not constant: the least such set.

  Args:
    flow: of the model.
    leaves: dense variables.
    values: from :func:`constants`.

  Returns:
    For each space a boolean array ``(channels,)``.
  """
  sizes = {flow.spaces[i]: len(values[i]) for i in range(len(flow.ops))}
  found = {space: np.zeros(size, bool) for space, size in sizes.items()}
  found[flow.spaces[0]][:] = True
  found[flow.spaces[-1]][:] = True  # the logits
  while True:
    before = sum(int(channels.sum()) for channels in found.values())
    for i, op in reversed(list(enumerate(flow.ops))):
      if op.kind in ('conv', 'dense'):
        (source,) = op.inputs
        outputs = leaves[kernel(op.layer)][..., found[flow.spaces[i]]]
        axes = (*range(outputs.ndim - 2), outputs.ndim - 1)
        read = np.any(outputs != 0, axis=axes) & np.isnan(values[source])
        found[flow.spaces[source]] |= read
    if before == sum(int(channels.sum()) for channels in found.values()):
      return found
