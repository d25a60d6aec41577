"""The PyTorch peer of the speed benchmarks is the same network, and trains."""

import math

import jax
import jax.numpy as jnp
import pytest

from str_jax import methods, models

torch = pytest.importorskip('torch')

from benchmarks import torch_peer  # noqa: E402

OURS = {
  'dense': None,
  'str': methods.create('str', init_value=-3.0),
  'st3': methods.create('st3', sparsity=0.9),
}


def parameters(name, method):
  """How many ours has."""
  model = models.create(
    name, num_classes=5, method=OURS[method], classifier_bias=False
  )
  variables = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))
  )
  leaves = jax.tree.leaves(variables['params'])
  return sum(math.prod(leaf.shape) for leaf in leaves)


@pytest.mark.parametrize('method', torch_peer.METHODS)
@pytest.mark.parametrize('name', torch_peer.MODELS)
def test_peer_trains_and_is_as_large_as_ours(name, method):
  torch.manual_seed(0)
  trainer = torch_peer.Trainer(
    name,
    method,
    torch.randn(2, 3, 32, 32),
    torch.tensor([1, 4]),
    classes=5,
  )
  before = next(trainer.model.parameters()).detach().clone()
  losses = [float(trainer.step()) for _ in range(2)]
  assert all(map(math.isfinite, losses))
  assert not torch.equal(before, next(trainer.model.parameters()))
  theirs = sum(p.numel() for p in trainer.model.parameters())
  assert theirs == parameters(name, method)
