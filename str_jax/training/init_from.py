"""Starting a run from the weights of another."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from ml_collections import ConfigDict

import str_jax
from str_jax import methods
from str_jax.interop import files, torch
from str_jax.methods import Method
from str_jax.paths import COLLECTION, THRESHOLD
from str_jax.training import build, checkpoint, records

# What a method's thresholds mean does not hang on these of its settings.
_COURSE = (
  'init_value',
  'sparsity',
  'budget',
  'target',
  'start_step',
  'end_step',
  'every_steps',
  'power',
  'gradient',
  'gradient_scale',
)


def check(source: pathlib.Path, model: str) -> None:
  """Looks whether a folder or a file can be started from; reads a file.

  Args:
    source: the folder of a run, or a file, see :func:`load`.
    model: the new run's model.

  Raises:
    FileNotFoundError: no run there, or no file.
    ValueError: it is another model's.
  """
  if files.is_file(source):  # now: the folder of the new run is not made yet
    network(source, files.content(source), model)
  else:
    _config_of(source, model)


def network(
  path: pathlib.Path, file: files.Content, model: str, **sizes: Any
) -> tuple[Method | None, dict[str, Any]]:
  """The network in a file of PyTorch's names.

  Args:
    path: of the file, for errors.
    file: what it holds.
    model: the name of our model.
    **sizes: of the model, where they are not the usual ones.

  Returns:
    The method, STR or None, and Linen collections.

  Raises:
    ValueError: it holds another network.
  """
  try:
    return torch.from_state_dict(file.arrays, model, **sizes)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error


def _config_of(source: pathlib.Path, model: str) -> ConfigDict:
  """The config of a run that can be started from."""
  config = ConfigDict(records.read_json(source / 'config.json'))
  rounds = config.get('imp', {}).get('rounds')
  if rounds:
    raise ValueError(
      f'init_from={source} must be the folder of a run, but holds several: '
      f'name that of a round, as {source / f"round-{rounds}"}.'
    )
  if config.model.name != model:
    raise ValueError(
      f'init_from={source} must hold a {model} like the new run, but holds a '
      f'{config.model.name}.'
    )
  return config


def load(
  source: pathlib.Path,
  variables: dict[str, Any],
  model: str,
  method: Method | None,
) -> dict[str, Any]:
  """Variables with every leaf that matches taken from another run.

  Thresholds are taken over where both runs use the same method; otherwise
  the other run's effective weights are, and thresholds start afresh. Those of
  a method that is to reach its sparsity at once are computed for it.

  Args:
    source: the folder of a run, dense or sparse; or a file that
      `str_jax.interop.files` reads, under PyTorch's names.
    variables: initial variables of the new run.
    model: the new run's model.
    method: the new run's method.

  Returns:
    Variables of the same structure; leaves without a match of their path and
    shape keep their initial value and are printed.

  Raises:
    FileNotFoundError: no run there, or no file.
    ValueError: the checkpoint cannot be read, or is another model's.
  """
  if files.is_file(source):
    their_method, theirs = network(source, files.content(source), model)
  else:
    config = _config_of(source, model)
    theirs = checkpoint.read_variables(source)
    their_method = method_of(config, theirs)
  afresh = meaning(their_method) != meaning(method)
  if afresh:
    theirs = str_jax.freeze(their_method, jax.tree.map(jnp.asarray, theirs))
  ours = traverse_util.flatten_dict(variables, sep='/')
  theirs = traverse_util.flatten_dict(theirs, sep='/')
  taken = {
    path: jnp.asarray(theirs[path], leaf.dtype)
    for path, leaf in ours.items()
    if path in theirs and theirs[path].shape == leaf.shape
  }
  copies = {path for path in ours if path.endswith(f'/{THRESHOLD}')}
  if _is_shared(method) and not copies <= taken.keys():
    # One threshold for the net: no copy of it may differ from the others.
    taken = {path: leaf for path, leaf in taken.items() if path not in copies}
  if not any(path.startswith('params/') for path in taken):
    raise ValueError(
      f'init_from={source} must hold a network like the new one, but no '
      'parameter has the same path and shape.'
    )
  _tell(source, ours, theirs, taken)
  loaded = traverse_util.unflatten_dict(ours | taken, sep='/')
  if afresh or (method is not None and method.settled_step == 0):
    return str_jax.update_thresholds(method, loaded, 0)
  return loaded


def method_of(config: Any, variables: dict[str, Any]) -> Method | None:
  """The method that variables of a run were saved with.

  Args:
    config: the run's config.
    variables: from one of its checkpoints.

  Returns:
    The method of the phase that the checkpoint is from.
  """
  has_thresholds = COLLECTION in variables or any(
    path[-1] == THRESHOLD
    for path in traverse_util.flatten_dict(variables['params'])
  )
  return (
    build.method(config.method, **build.beside(config))
    if has_thresholds
    else None
  )


def _is_shared(method: Method | None) -> bool:
  """Whether one learned threshold serves the whole net."""
  return isinstance(method, methods.STR) and method.granularity == 'global'


def meaning(method: Method | None) -> dict[str, Any]:
  """What must be equal for thresholds to mean the same.

  Args:
    method: one method.

  Returns:
    Its kind and its settings, without those of its course.
  """
  if method is None:
    return {}
  settings = {
    field.name: getattr(method, field.name)
    for field in dataclasses.fields(method)
    if field.name not in _COURSE
  }
  # A target's thresholds are computed, and of any size.
  targeted = getattr(method, 'target', None) is not None
  return {'class': type(method), 'targeted': targeted} | settings


def _tell(
  source: pathlib.Path,
  ours: dict[str, Any],
  theirs: dict[str, Any],
  taken: dict[str, Any],
) -> None:
  print(f'{len(taken)} of {len(ours)} arrays taken from {source}')
  for what, paths in (
    ('starts afresh, not found there', set(ours) - set(theirs)),
    (
      'starts afresh, of another shape there',
      set(ours) & set(theirs) - set(taken),
    ),
    ('not used from there', set(theirs) - set(ours)),
  ):
    if paths:
      print(f'{what}: {", ".join(sorted(paths))}')
