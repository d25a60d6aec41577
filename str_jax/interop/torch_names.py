"""How PyTorch models name our layers: torchvision's and the papers' code.

The names of STR's networks are from github.com/RAIVNLab/STR (models/resnet.py,
models/mobilenetv1.py), those of ST-3's from github.com/vanderschuea/stthree
(stthree/models/backbones/resnet.py, structures/classifier.py).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping

from str_jax.paths import KERNEL, THRESHOLD, Path

STEM = 'stem'
CLASSIFIER = 'classifier'
LEAVES = {
  KERNEL: 'weight',
  THRESHOLD: 'sparseThreshold',
  'bias': 'bias',
  'scale': 'weight',
  'mean': 'running_mean',
  'var': 'running_var',
}


@dataclasses.dataclass(frozen=True)
class Names:
  """The names of a family of PyTorch models.

  Attributes:
    outer: our layers outside the blocks to their modules.
    block: the module of a block, of its ``number`` in its stage from 1, its
      ``index`` there from 0, its ``stage`` from 1 and its ``place`` in the
      net from 0.
    inner: our layers inside a block to their modules inside the block's.
    conv_classifier: whether the classifier is always a 1x1 convolution.
    pruned_layers: whether layers may be ST-3's, see `torch_arrays`.
  """

  outer: Mapping[str, str]
  block: str
  inner: Mapping[str, str]
  conv_classifier: bool = False
  pruned_layers: bool = False

  def paths(self, leaves: Iterable[Path], arch: str) -> dict[str, Path]:
    """The name of every leaf of our variables.

    Args:
      leaves: paths of leaves, the collection first.
      arch: the name of our model, for the error.

    Returns:
      A dict from PyTorch's name to path.

    Raises:
      ValueError: a leaf that these models do not have.

    >>> leaves = [('params', 'stage2_block1', 'shortcut', 'kernel')]
    >>> list(of('resnet18').paths(leaves, 'resnet18'))
    ['layer2.0.downsample.0.weight']
    """
    leaves = list(leaves)
    modules = self._modules(path[1] for path in leaves)
    named = {
      path: (modules.get('/'.join(path[1:-1])), LEAVES.get(path[-1]))
      for path in leaves
    }
    unknown = ['/'.join(path) for path in leaves if None in named[path]]
    if unknown:
      raise ValueError(
        f'the variables must be of {arch}, which has no {few(unknown)}: pass '
        'the name of their own model.'
      )
    return {f'{module}.{leaf}': p for p, (module, leaf) in named.items()}

  def _modules(self, layers: Iterable[str]) -> dict[str, str]:
    """Our layers to modules, with those of the blocks that occur."""
    numbers = {}
    for layer in layers:
      match = re.fullmatch(r'(?:stage(\d+)_)?block(\d+)', layer)
      if match:
        numbers[layer] = tuple(int(digits or 0) for digits in match.groups())
    modules = dict(self.outer)
    for place, block in enumerate(sorted(numbers, key=numbers.__getitem__)):
      stage, number = numbers[block]
      prefix = self.block.format(
        stage=stage, number=number, index=number - 1, place=place
      )
      for layer, module in self.inner.items():
        modules[f'{block}/{layer}'] = f'{prefix}.{module}'
    return modules


_TORCHVISION = Names(
  outer={STEM: 'conv1', 'stem_norm': 'bn1', CLASSIFIER: 'fc'},
  block='layer{stage}.{index}',
  inner={
    **{f'conv{i}': f'conv{i}' for i in (1, 2, 3)},
    **{f'norm{i}': f'bn{i}' for i in (1, 2, 3)},
    'shortcut': 'downsample.0',
    'shortcut_norm': 'downsample.1',
  },
)
_ST3 = Names(
  outer={
    STEM: 'backbone.start_block.conv',
    'stem_norm': 'backbone.start_block.batchnorm',
    CLASSIFIER: 'fc',
  },
  block='backbone.res_blocks.{place}',
  inner={
    'conv1': 'block.0.conv',
    'norm1': 'block.0.batchnorm',
    'conv2': 'block.1.conv',
    'norm2': 'block.1.batchnorm',
    'shortcut': 'skip.conv',
    'shortcut_norm': 'skip.batchnorm',
  },
  pruned_layers=True,
)
_STR_MOBILENET = Names(
  outer={STEM: 'model.0.0', 'stem_norm': 'model.0.1', CLASSIFIER: 'fc'},
  block='model.{number}',
  inner={
    'depthwise': '0',
    'depthwise_norm': '1',
    'pointwise': '3',
    'pointwise_norm': '4',
  },
  conv_classifier=True,
)
FAMILIES = {
  'resnet18': _TORCHVISION,
  'resnet34': _TORCHVISION,
  'resnet50': _TORCHVISION,
  'resnet8': _ST3,
  'resnet20': _ST3,
  'resnet32': _ST3,
  'resnet56': _ST3,
  'mobilenet_v1': _STR_MOBILENET,
}


def of(arch: str) -> Names:
  """The names of one of our models in PyTorch.

  Args:
    arch: the name of our model.

  Returns:
    The names of its family.

  Raises:
    ValueError: a model without a known counterpart.

  >>> of('mobilenet_v1').outer['stem']
  'model.0.0'
  """
  if arch not in FAMILIES:
    raise ValueError(
      f'arch must be a model whose PyTorch names are known, one of '
      f'{", ".join(FAMILIES)}; got {arch!r}.'
    )
  return FAMILIES[arch]


def few(names: list[str]) -> str:
  """The first names of a list, for an error.

  >>> few(['a', 'b', 'c', 'd', 'e'])
  'a, b, c and 2 more'
  """
  more = f' and {len(names) - 3} more' if len(names) > 3 else ''
  return ', '.join(names[:3]) + more
