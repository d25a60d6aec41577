"""Classification sets as batches of images or sequences, in a fixed order.

Imports no jax, and nothing at all until a name is asked for: Grain's worker
processes import this package each time they start.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from str_jax.data.dataset import Dataset, load, names
  from str_jax.data.pipeline import eval_batches, train_batches

__all__ = ['Dataset', 'eval_batches', 'load', 'names', 'train_batches']

_MODULES = {
  'Dataset': 'dataset',
  'load': 'dataset',
  'names': 'dataset',
  'eval_batches': 'pipeline',
  'train_batches': 'pipeline',
}


def __getattr__(name: str) -> Any:
  if name not in _MODULES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  module = importlib.import_module(f'{__name__}.{_MODULES[name]}')
  return getattr(module, name)
