"""Files of arrays under PyTorch's names: .safetensors, and PyTorch's own."""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import pathlib
import pickle
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

SAFETENSORS = '.safetensors'
TORCH = ('.pth', '.pt', '.ckpt', '.tar', '.bin')
_BFLOAT16 = np.dtype(jnp.bfloat16)
# Entries of a whole checkpoint.
_DICTS = ('state_dict', 'model_state_dict', 'model')


@dataclasses.dataclass(frozen=True)
class Content:
  """What a file holds.

  Attributes:
    arrays: by name, in the file's order.
    metadata: what stands beside them, as text by name.
    kind: what the file is, in words.
  """

  arrays: dict[str, np.ndarray]
  metadata: dict[str, str]
  kind: str


def read(path: str | pathlib.Path) -> dict[str, np.ndarray]:
  """The arrays of a file, of a whole checkpoint those of its state dict.

  Args:
    path: a .safetensors file, or one that `torch.save` wrote.

  Returns:
    Names to arrays of the file's own types, bfloat16 as ml_dtypes has it.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged, holds something else than arrays, or needs a
      library that is missing.

  >>> import tempfile
  >>> with tempfile.TemporaryDirectory() as folder:
  ...   write(f'{folder}/a.safetensors', {'fc.bias': np.zeros(2, 'f')})
  ...   read(f'{folder}/a.safetensors')
  {'fc.bias': array([0., 0.], dtype=float32)}
  """
  return content(path).arrays


def content(path: str | pathlib.Path) -> Content:
  """The arrays of a file and what stands beside them; see `read`.

  Args:
    path: a .safetensors file, or one that `torch.save` wrote.

  Returns:
    The file's content.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: as for `read`.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    found = 'it is a folder' if path.is_dir() else 'there is no such file'
    raise FileNotFoundError(
      f'{path} must be a checkpoint, a .safetensors or a .pth file, but '
      f'{found}.'
    )
  return _read_safetensors(path) if _is_safe(path) else _read_torch(path)


def is_file(path: pathlib.Path) -> bool:
  """Whether a path is meant as a file of arrays, and not as a folder.

  Args:
    path: one that need not be there.

  Returns:
    Whether there is a file, or the ending is that of one.

  >>> is_file(pathlib.Path('resnet50.pth')), is_file(pathlib.Path('runs/a'))
  (True, False)
  """
  named = path.suffix in (SAFETENSORS, *TORCH) and not path.is_dir()
  return named or path.is_file()


def write(
  path: str | pathlib.Path,
  arrays: Mapping[str, Any],
  metadata: Mapping[str, str] | None = None,
) -> None:
  """Writes arrays, so that a kill leaves the old file or the new one.

  Args:
    path: ends in .safetensors, or in .pth, .pt, .ckpt, .tar or .bin for a
      file that `torch.load` reads as a state dict.
    arrays: by name, of any type that NumPy or ml_dtypes has and the format.
    metadata: text by name; in PyTorch's file it is the attribute `metadata`
      of the state dict, out of the way of `load_state_dict`.

  Raises:
    OSError: the file cannot be written.
    ValueError: another ending, or a library that is missing.
  """
  path = pathlib.Path(path)
  if not _is_safe(path) and path.suffix not in TORCH:
    raise ValueError(
      f'{path} must end in {SAFETENSORS}, or in {", ".join(TORCH)} for a file '
      'of PyTorch.'
    )
  if not path.parent.is_dir() or path.is_dir():
    raise OSError(
      f'{path} cannot be written: name a file in a folder that there is.'
    )
  values = {name: np.asarray(v, order='C') for name, v in arrays.items()}
  with _whole(path) as unfinished:
    writer = _write_safetensors if _is_safe(path) else _write_torch
    writer(unfinished, values, dict(metadata or {}))


def _is_safe(path: pathlib.Path) -> bool:
  return path.suffix == SAFETENSORS


@contextlib.contextmanager
def _whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """A file beside another, put in its place once it is whole."""
  unfinished = path.with_name(path.name + '.unfinished')
  try:
    yield unfinished
    unfinished.replace(path)
  except OSError as error:
    raise OSError(
      f'{path} cannot be written ({error.strerror or error}): free space or '
      'mend the folder.'
    ) from error
  finally:
    unfinished.unlink(missing_ok=True)


def _safetensors() -> Any:
  try:
    import safetensors.numpy
  except ModuleNotFoundError as error:
    raise ValueError(
      'a .safetensors file needs the package safetensors, which is not '
      "installed: in the checkout of str_jax, pip install -e '.[train]'."
    ) from error
  return safetensors


def _read_safetensors(path: pathlib.Path) -> Content:
  safetensors = _safetensors()
  try:
    with safetensors.safe_open(path, framework='np') as file:
      arrays = {name: file.get_tensor(name) for name in file.keys()}
      metadata = dict(file.metadata() or {})
  except (safetensors.SafetensorError, AttributeError) as error:
    raise ValueError(  # AttributeError: a type that NumPy does not know
      f'{path} must be a .safetensors file, but cannot be read as one '
      f'({error}): get it again.'
    ) from error
  return Content(arrays, metadata, 'file of safetensors')


def _write_safetensors(
  path: pathlib.Path, arrays: dict[str, np.ndarray], metadata: dict[str, str]
) -> None:
  safetensors = _safetensors()
  try:
    safetensors.numpy.save_file(arrays, path, metadata or None)
  except safetensors.SafetensorError as error:
    raise OSError(str(error)) from error


def _torch() -> Any:
  try:
    import torch
  except ModuleNotFoundError as error:
    raise ValueError(
      "a file of PyTorch's needs PyTorch, which is not installed: in the "
      "checkout of str_jax, pip install -e '.[torch]', or convert the file to "
      '.safetensors elsewhere.'
    ) from error
  return torch


def _read_torch(path: pathlib.Path) -> Content:
  loaded = _load(path)
  kind = 'state dict of PyTorch'
  beside = getattr(loaded, 'metadata', None)
  if isinstance(loaded, Mapping):
    for entry in _DICTS:
      if isinstance(loaded.get(entry), Mapping):
        kind = 'checkpoint of PyTorch'
        beside, loaded = loaded, loaded[entry]
        break
  if not isinstance(loaded, Mapping) or not loaded:
    raise ValueError(
      f'{path} must hold a state dict, names to tensors, but holds a '
      f"{type(loaded).__name__}: save what the model's state_dict() gives."
    )
  arrays = {name: _array(path, name, value) for name, value in loaded.items()}
  metadata = {
    str(name): str(value)
    for name, value in (beside if isinstance(beside, Mapping) else {}).items()
    if np.isscalar(value)
  }
  return Content(arrays, metadata, kind)


def _load(path: pathlib.Path) -> Any:
  """What torch.load gives of a file whose code is never run."""
  torch = _torch()
  try:
    with torch.serialization.safe_globals(_plain()):
      return torch.load(path, map_location='cpu', weights_only=True)
  except OSError:
    raise
  except Exception as error:  # a file may hold anything
    code = re.search(r'GLOBAL ([\w.]+)', str(error))
    if isinstance(error, pickle.UnpicklingError) and code:
      raise ValueError(
        f'{path} holds code ({code[1]}) beside its tensors, which is never '
        'run here: where you trust the file, load it in PyTorch and save what '
        "the model's state_dict() gives."
      ) from error
    raise ValueError(
      f'{path} must be a file that torch.save wrote, but is none or is cut '
      f'short ({type(error).__name__}): get it again.'
    ) from error


def _plain() -> list[Any]:
  """Types beside tensors that run no code: options, and numbers of NumPy."""
  scalar = np.float64(0).__reduce__()[0]
  names = [f'numpy.{core}.multiarray.scalar' for core in ('core', '_core')]
  kinds = [type(np.dtype(kind)) for kind in ('f4', 'f8', 'i4', 'i8', '?')]
  return [
    argparse.Namespace,
    np.dtype,
    *kinds,
    *((scalar, name) for name in names),
  ]


def _array(path: pathlib.Path, name: Any, value: Any) -> np.ndarray:
  torch = _torch()
  if not isinstance(name, str) or not isinstance(value, torch.Tensor):
    raise ValueError(
      f'{path} must hold a state dict, names to tensors, but {name!r} is a '
      f"{type(value).__name__}: save what the model's state_dict() gives."
    )
  try:
    value = value.detach().cpu().contiguous()
    if value.dtype == torch.bfloat16:
      return value.view(torch.int16).numpy().view(_BFLOAT16)
    return value.numpy()
  except (TypeError, RuntimeError) as error:
    raise ValueError(
      f'{path} holds {name} as {value.dtype} ({value.layout}), which NumPy '
      'does not know: save it as float32, dense.'
    ) from error


def _write_torch(
  path: pathlib.Path, arrays: dict[str, np.ndarray], metadata: dict[str, str]
) -> None:
  torch = _torch()
  try:
    tensors = collections.OrderedDict(
      (name, _tensor(value)) for name, value in arrays.items()
    )
    if metadata:
      tensors.__dict__['metadata'] = metadata  # as PyTorch keeps its own there
    torch.save(tensors, path)
  except (RuntimeError, TypeError) as error:  # a full disk; no numbers
    raise OSError(str(error)) from error


def _tensor(value: np.ndarray) -> Any:
  torch = _torch()
  if value.dtype == _BFLOAT16:
    return torch.tensor(value.view(np.int16)).view(torch.bfloat16)
  return torch.tensor(value)  # a copy: a tensor is to be writable
