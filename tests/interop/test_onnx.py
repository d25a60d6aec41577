"""ONNX files: what ONNX Runtime computes from them, and what stops them."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from str_jax import models
from str_jax.interop import onnx, stablehlo

SHAPE = (16, 16, 3)
pytestmark = pytest.mark.filterwarnings(  # of jax2onnx 0.13 under jax 0.10
  'ignore:jax.core.DropVar is deprecated:DeprecationWarning'
)


@pytest.fixture(scope='module')
def resnet():
  """With a max-pool of its own padding, a shortcut and norms that matter."""
  model = models.create('resnet18', num_classes=5, width=4, stage_sizes=(1, 1))
  leaves = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, *SHAPE)))
  rng = np.random.default_rng(0)
  return model, jax.tree.map(
    lambda leaf: rng.uniform(-0.5, 1.0, leaf.shape).astype('f') ** 2, leaves
  )


def run(path, images):
  runtime = pytest.importorskip('onnxruntime')
  session = runtime.InferenceSession(path, providers=['CPUExecutionProvider'])
  return session.run(['logits'], {'images': images})[0]


@pytest.mark.parametrize('batch', [None, 2])
def test_onnx_runtime_gives_the_same_logits(resnet, batch, tmp_path, capfd):
  pytest.importorskip('jax2onnx')
  model, variables = resnet
  path = tmp_path / 'model.onnx'
  difference = onnx.write(path, model, variables, SHAPE, batch)
  assert 0 < difference < 1e-4 * 100
  images = -np.random.default_rng(1).uniform(0, 1, (2, *SHAPE)).astype('f')
  expected = np.asarray(model.apply(variables, images, train=False))
  np.testing.assert_allclose(run(path, images), expected, rtol=1e-4)
  if batch is None:
    logits = run(path, images[:1])
    np.testing.assert_allclose(logits, expected[:1], rtol=1e-4)
  else:
    with pytest.raises(Exception, match='Got: 1 Expected: 2'):
      run(path, images[:1])
  assert 'shape info' not in ''.join(capfd.readouterr())


def test_other_logits_are_an_error(resnet, tmp_path, monkeypatch):
  jax2onnx = pytest.importorskip('jax2onnx')
  convert = jax2onnx.to_onnx

  def wrongly(function, **settings):
    return convert(lambda x: 1.01 * function(x), **settings)

  monkeypatch.setattr(jax2onnx, 'to_onnx', wrongly)
  with pytest.raises(ValueError, match='other logits than JAX, by '):
    onnx.write(tmp_path / 'model.onnx', *resnet, SHAPE)


def test_what_jax2onnx_does_not_know(resnet, tmp_path, monkeypatch):
  jax2onnx = pytest.importorskip('jax2onnx')

  def cannot(*args, **settings):
    raise NotImplementedError('no such layer\nsecond line')

  monkeypatch.setattr(jax2onnx, 'to_onnx', cannot)
  with pytest.raises(ValueError) as error:
    onnx.write(tmp_path / 'model.onnx', *resnet, SHAPE)
  assert str(error.value) == (
    'jax2onnx cannot convert this ResNet (NotImplementedError: no such layer): '
    'export it to stablehlo.'
  )


class Foreign(nn.Module):
  """A model of somebody else's; its `max_pool` is not ours."""

  max_pool: int = 2

  @nn.compact
  def __call__(self, x, deterministic=None):
    x = nn.relu(nn.Conv(4, (3, 3))(x))
    x = nn.max_pool(x, window_shape=(self.max_pool,) * 2, strides=(2, 2))
    # All below 0, so that a border of zeros would be seen.
    x = nn.max_pool(x - 5, (3, 3), (2, 2), ((1, 1), (1, 0)))
    x = nn.Dropout(0.5)(x.reshape(x.shape[0], -1), deterministic)
    return nn.Dense(5)(x)


@pytest.mark.parametrize('module', [onnx, stablehlo])
def test_models_of_somebody_elses(module, tmp_path):
  pytest.importorskip('jax2onnx' if module is onnx else 'flatbuffers')
  shape, path = (6, 6, 2), tmp_path / 'model'
  model, arguments = Foreign(), {'deterministic': True}
  variables = model.init(jax.random.key(0), jnp.ones((1, *shape)), True)
  with jax.numpy_rank_promotion('allow'):  # jax2onnx's convolution needs it
    assert module.write(path, model, variables, shape, **arguments) < 1e-5
  path.unlink()
  # The model's own complaint, and not that of what writes it.
  with pytest.raises(ValueError, match='deterministic.* must be'):
    module.write(path, model, variables, shape)
  with pytest.raises(ValueError, match='Linen model, .*, but got a dict of'):
    module.write(path, variables, variables, shape)
  assert not path.exists()


@pytest.mark.parametrize('package', ['jax2onnx', 'onnxruntime'])
def test_a_missing_package(resnet, package, tmp_path, monkeypatch):
  for name in ('jax2onnx', 'onnxruntime'):
    monkeypatch.setitem(sys.modules, name, object())
  monkeypatch.setitem(sys.modules, package, None)
  wanted = rf"needs the package {package}, .* pip install -e '.\[train,onnx\]'"
  with pytest.raises(ValueError, match=wanted):
    onnx.write(tmp_path / 'model.onnx', *resnet, SHAPE)


@pytest.mark.parametrize('padding', ['SAME', 'VALID', ((1, 1), (1, 2))])
def test_the_pool_is_flaxs(padding):
  images = -np.random.default_rng(0).uniform(1, 2, (1, 7, 6, 2)).astype('f')
  settings = ((3, 3), (2, 2), padding)
  expected, flaxs = nn.max_pool(images, *settings), nn.max_pool
  with onnx._padding_apart():
    ours = nn.max_pool(images, *settings)
  np.testing.assert_array_equal(ours, expected)
  assert nn.max_pool is flaxs
