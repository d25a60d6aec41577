"""Files under PyTorch's names: what is read, written, and refused."""

import argparse
import builtins
import collections

import ml_dtypes
import numpy as np
import pytest

from str_jax.interop import files

ARRAYS = {
  'fc.weight': np.arange(6, dtype='f').reshape(2, 3).T,  # not contiguous
  'fc.half': np.ones(3, np.float16),
  'fc.brain': np.linspace(0, 1, 4).astype(ml_dtypes.bfloat16).reshape(2, 2),
  'bn.num_batches_tracked': np.asarray(7),
  'mask': np.array([True, False]),
  'bytes': np.array([1, 255], np.uint8),
}


def same(found, expected):
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_array_equal(found[name], value, strict=True)


def error_of(path):
  with pytest.raises((ValueError, OSError)) as error:
    files.read(path)
  assert '\n' not in str(error.value)
  assert str(path) in str(error.value)
  return str(error.value)


@pytest.mark.parametrize('name', ['a.safetensors', 'a.pth', 'a.pth.tar'])
@pytest.mark.parametrize('metadata', [None, {'method': 'str'}])
def test_both_ways_every_type_is_exact(name, metadata, tmp_path):
  if not name.endswith('.safetensors'):
    pytest.importorskip('torch')
  path = tmp_path / name
  files.write(path, ARRAYS, metadata)
  same(files.read(str(path)), ARRAYS)
  assert files.content(path).metadata == (metadata or {})
  assert [p.name for p in tmp_path.iterdir()] == [name]


def test_pytorch_loads_what_is_written(tmp_path):
  torch = pytest.importorskip('torch')
  net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
  arrays = {k: v.numpy() for k, v in net.state_dict().items()}
  for path in (tmp_path / 'a.pth', tmp_path / 'a.safetensors'):
    files.write(path, {k: v + 1 for k, v in arrays.items()}, {'of': 'us'})
  loaded = torch.load(tmp_path / 'a.pth')
  net.load_state_dict(loaded)
  assert torch.equal(net[1].running_var, torch.full((2,), 2.0))


@pytest.mark.parametrize('name', ['a.safetensors', 'a.pth'])
def test_a_write_that_fails_leaves_the_old_file(name, tmp_path):
  if name == 'a.pth':
    pytest.importorskip('torch')
  path = tmp_path / name
  files.write(path, ARRAYS)
  with pytest.raises(OSError, match='cannot be written'):
    files.write(path, {'text': np.array(['no number'])})
  same(files.read(path), ARRAYS)
  assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('a.npz', 'must end in .safetensors, or in .pth, '),
    ('none/a.safetensors', 'name a file in a folder that there is'),
    ('dir.pth', 'name a file in a folder that there is'),
  ],
)
def test_where_nothing_can_be_written(name, message, tmp_path):
  (tmp_path / 'dir.pth').mkdir()
  with pytest.raises((ValueError, OSError), match=message):
    files.write(tmp_path / name, ARRAYS)


@pytest.mark.parametrize('zipped', [True, False])
def test_a_checkpoint_of_the_released_code(zipped, tmp_path):
  """As PyTorch 1.3 wrote it, and as zip files since; numbers beside it."""
  torch = pytest.importorskip('torch')
  weight = torch.nn.Parameter(torch.ones(2, 3))
  tensors = {'module.fc.weight': weight, 'module.n': torch.tensor(3)}
  torch.save(
    {
      'epoch': 100,
      'arch': 'ResNet50',
      'state_dict': tensors,
      'best_acc1': np.float64(74.31),
      'optimizer': torch.optim.SGD([weight], 0.1).state_dict(),
      'args': argparse.Namespace(lr=0.1),
    },
    tmp_path / 'a.pth.tar',
    _use_new_zipfile_serialization=zipped,
  )
  found = files.content(tmp_path / 'a.pth.tar')
  same(found.arrays, {k: v.detach().numpy() for k, v in tensors.items()})
  told = {'epoch': '100', 'arch': 'ResNet50', 'best_acc1': '74.31'}
  assert found.metadata == told
  assert found.kind == 'checkpoint of PyTorch'


class Code:
  """Runs a command where it is unpickled."""

  def __init__(self, file):
    self.file = file

  def __reduce__(self):
    return (builtins.open, (str(self.file), 'w'))


@pytest.mark.parametrize('zipped', [True, False])
def test_code_is_refused_and_never_run(zipped, tmp_path):
  torch = pytest.importorskip('torch')
  content = {'state_dict': {'a': torch.ones(2)}, 'x': Code(tmp_path / 'ran')}
  path = tmp_path / 'evil.pth'
  torch.save(content, path, _use_new_zipfile_serialization=zipped)
  assert 'holds code (io.open)' in error_of(path).replace('builtins', 'io')
  assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('ending', ['.pth', '.safetensors'])
@pytest.mark.parametrize('text', [b'', b'weights', b'{"a": 1}' * 20])
def test_what_is_no_checkpoint(ending, text, tmp_path):
  if ending == '.pth':
    pytest.importorskip('torch')
  path = tmp_path / f'a{ending}'
  path.write_bytes(text)
  assert 'get it again' in error_of(path)


@pytest.mark.parametrize(
  ('name', 'zipped'),
  [('a.safetensors', True), ('a.pth', True), ('a.pth', False)],
)
def test_a_file_that_is_cut_short(name, zipped, tmp_path):
  path = tmp_path / name
  if name == 'a.pth':
    torch = pytest.importorskip('torch')
    tensors = {'a': torch.ones(500)}
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
  else:
    files.write(path, {'a': np.ones(500, 'f')})
  whole = path.read_bytes()
  for share in (0.02, 0.3, 0.9):
    path.write_bytes(whole[: int(share * len(whole))])
    assert 'get it again' in error_of(path)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ([1, 2], 'names to tensors, but holds a list'),
    ({}, 'names to tensors'),
    ({'a': 'text'}, "'a' is a str"),
    ({'state_dict': {'a': None}}, "'a' is a NoneType"),
  ],
)
def test_what_is_no_state_dict(content, message, tmp_path):
  torch = pytest.importorskip('torch')
  path = tmp_path / 'a.pth'
  torch.save(content, path)
  assert message in error_of(path)


def test_whatever_stands_beside_is_no_obstacle(tmp_path):
  torch = pytest.importorskip('torch')
  state_dict = collections.OrderedDict(a=torch.ones(2))
  for beside in (7, 'text', {'x': torch.ones(3), 'epoch': 3}):
    vars(state_dict)['metadata'] = beside
    torch.save(state_dict, tmp_path / 'a.pth')
    found = files.content(tmp_path / 'a.pth').metadata
    assert found == ({'epoch': '3'} if isinstance(beside, dict) else {})


def test_a_sparse_tensor_is_an_error(tmp_path):
  torch = pytest.importorskip('torch')
  torch.save({'a': torch.eye(3).to_sparse()}, tmp_path / 'a.pth')
  assert 'a as torch.float32' in error_of(tmp_path / 'a.pth')


def test_a_type_that_numpy_does_not_know(tmp_path):
  torch = pytest.importorskip('torch')
  values = torch.ones(2).to(torch.float8_e4m3fn)
  torch.save({'a': values}, tmp_path / 'a.pth')
  assert 'a as torch.float8_e4m3fn' in error_of(tmp_path / 'a.pth')
  eights = np.ones(2, ml_dtypes.float8_e4m3fn)
  files.write(tmp_path / 'a.safetensors', {'a': eights})
  assert 'float8' in error_of(tmp_path / 'a.safetensors')


@pytest.mark.parametrize(
  ('name', 'library'), [('a.pth', 'torch'), ('a.safetensors', 'safetensors')]
)
def test_a_library_that_is_missing(name, library, tmp_path, monkeypatch):
  path = tmp_path / name
  path.write_bytes(b'x')
  load = builtins.__import__

  def without(module, *args, **kwargs):
    if module.partition('.')[0] == library:
      raise ModuleNotFoundError(module)
    return load(module, *args, **kwargs)

  monkeypatch.setattr(builtins, '__import__', without)
  extra = {'safetensors': 'train', 'torch': 'torch'}[library]
  wanted = rf"not installed: in .* pip install -e '.\[{extra}\]'"
  for use in (files.read, lambda path: files.write(path, ARRAYS)):
    with pytest.raises(ValueError, match=wanted):
      use(path)


def test_no_file_at_all(tmp_path):
  assert 'there is no such file' in error_of(tmp_path / 'a.pth')
  assert 'it is a folder' in error_of(tmp_path)
