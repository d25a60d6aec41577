"""A trained network as plain arrays in one safetensors file, with a seal.

The names are the paths in our variables, as `params/stem/kernel`. Beside the
arrays stands JSON text, under the name `str_jax`: what the network is, and a
checksum over that and the arrays.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from str_jax import models
from str_jax.interop import files
from str_jax.paths import named_leaves

Arrays = dict[str, np.ndarray]
Metadata = dict[str, Any]

FORMAT = 'dense'
VERSION = 1
_KEY = 'str_jax'  # one entry: of several the order in the file is not fixed


def write(
  path: str | pathlib.Path,
  variables: Any,
  metadata: Mapping[str, Any] | None = None,
) -> None:
  """Writes dense variables; undone by `read`.

  Args:
    path: the file, NAME.safetensors.
    variables: Linen collections, nested dicts of arrays.
    metadata: what else is to stand there, as JSON can hold it.

  Raises:
    OSError: the file cannot be written.

  >>> import tempfile
  >>> variables = {'params': {'fc': {'kernel': np.eye(2, dtype='f')}}}
  >>> with tempfile.TemporaryDirectory() as folder:
  ...   write(f'{folder}/dense.safetensors', variables, {'arch': 'mine'})
  ...   metadata, again = read(f'{folder}/dense.safetensors')
  >>> metadata['arch'], again['params']['fc']['kernel'].tolist()
  ('mine', [[1.0, 0.0], [0.0, 1.0]])
  """
  about = {**(metadata or {}), **levels(variables)}
  write_sealed(path, FORMAT, flatten(variables), about)


def read(path: str | pathlib.Path) -> tuple[Metadata, Any]:
  """The metadata and the variables of a file.

  Args:
    path: what `write` wrote, or `python -m str_jax export`.

  Returns:
    (metadata, variables): `str_jax.models.create(**metadata['model'])` is the
    model of an exported network; the variables are NumPy arrays.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged, or of another format.
  """
  metadata, arrays = read_sealed(path, FORMAT)
  return metadata, unflatten(arrays, metadata)


def flatten(variables: Any) -> Arrays:
  """The leaves of variables by their paths, '/' between levels.

  >>> flatten({'params': {'fc': {'bias': np.zeros(1)}}})
  {'params/fc/bias': array([0.])}
  """
  return {
    '/'.join(path): np.asarray(leaf)
    for path, leaf in named_leaves(variables).items()
  }


def levels(variables: Any) -> Metadata:
  """What to note in the metadata where names hold a '/' themselves.

  Args:
    variables: nested dicts of arrays; Haiku's names are such.

  Returns:
    ``{'_levels': {path: names}}`` of those paths; nothing if there is none.

  >>> levels({'net/~/linear': {'w': 0}, 'b': 0})
  {'_levels': {'net/~/linear/w': ['net/~/linear', 'w']}}
  """
  found = {
    '/'.join(path): list(path)
    for path in named_leaves(variables)
    if any('/' in name for name in path)
  }
  return {'_levels': found} if found else {}


def unflatten(arrays: Arrays, metadata: Mapping[str, Any] | None = None) -> Any:
  """Undoes `flatten`, with what `levels` noted."""
  noted = (metadata or {}).get('_levels', {})
  return traverse_util.unflatten_dict(
    {tuple(noted.get(n, n.split('/'))): array for n, array in arrays.items()}
  )


def settings(model: Any, name: str) -> Metadata:
  """What `str_jax.models.create` needs beside the name, to make a model again.

  Args:
    model: a dense one of `str_jax.models`.
    name: that it was created by.

  Returns:
    Its fields that the name alone does not give: numbers, tuples and dicts.

  >>> from str_jax import models
  >>> model = models.create('convnet', num_classes=10, widths=(8,))
  >>> settings(model, 'convnet')
  {'num_classes': 10, 'widths': (8,)}
  """
  found = {'num_classes': model.num_classes}
  usual = models.create(name, num_classes=model.num_classes)
  for field in dataclasses.fields(model):
    value = _tuples(getattr(model, field.name))
    plain = isinstance(value, (int, float, tuple, Mapping))
    if plain and value != _tuples(getattr(usual, field.name)):
      found[field.name] = dict(value) if isinstance(value, Mapping) else value
  return found


def write_sealed(
  path: str | pathlib.Path,
  kind: str,
  arrays: Arrays,
  metadata: Mapping[str, Any],
) -> None:
  """Writes arrays with metadata and a checksum over both.

  Args:
    path: the file, NAME.safetensors.
    kind: which of our formats it is.
    arrays: by name.
    metadata: what else is to stand there, as JSON can hold it.

  Raises:
    OSError: the file cannot be written.
  """
  text = json.dumps({**metadata, 'format': kind, 'version': VERSION})
  content = json.loads(text)
  sealed = {**content, 'sha256': _sha256(content, arrays)}
  files.write(path, arrays, {_KEY: json.dumps(sealed, sort_keys=True)})


def read_sealed(path: str | pathlib.Path, kind: str) -> tuple[Metadata, Arrays]:
  """The metadata and the arrays of a file, once its checksum is right.

  Args:
    path: what `write_sealed` wrote.
    kind: the format wanted.

  Returns:
    (metadata, arrays); JSON's lists are tuples.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged, or of another format.
  """
  found = files.content(path)
  try:
    metadata = json.loads(found.metadata[_KEY])
    seal = metadata.pop('sha256')
    told = metadata['format'], metadata['version']
  except (KeyError, ValueError, TypeError, AttributeError):
    told = None, None
  if told[0] != kind:
    raise ValueError(
      f'{path} must be a {kind} file of str_jax, but is '
      f'{f"a {told[0]} one" if told[0] else "none of its files"}: write one '
      f'with `python -m str_jax export DIR --to={kind}.safetensors`.'
    )
  if told[1] != VERSION:
    raise ValueError(
      f'{path} is of version {told[1]} of the {kind} format, and this str_jax '
      f'reads version {VERSION}: use the one that wrote the file.'
    )
  if seal != _sha256(metadata, found.arrays):
    raise ValueError(
      f'{path} is damaged, its checksum is another than its content has: '
      'export it again.'
    )
  return {k: _tuples(v) for k, v in metadata.items()}, found.arrays


def _sha256(metadata: Metadata, arrays: Arrays) -> str:
  """Over the metadata and every array with its name, type and shape."""
  digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
  for name in sorted(arrays):
    array = arrays[name]
    digest.update(f'{name} {array.dtype} {array.shape}'.encode())
    digest.update(array.tobytes())
  return digest.hexdigest()


def _tuples(value: Any) -> Any:
  """Lists as tuples: a Flax model's fields must be hashable."""
  if isinstance(value, list):
    return tuple(_tuples(v) for v in value)
  if isinstance(value, dict):
    return {k: _tuples(v) for k, v in value.items()}
  return value
