"""Folders of runs, made at once with a checkpoint as if they were trained."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

from configs import common
from str_jax import paths
from str_jax.training import build, checkpoint, workdir
from str_jax.training import state as states

MODELS = {
  'convnet': {'model.widths': (4, 8), 'model.dtype': 'bfloat16'},
  'resnet20': {'model.stage_sizes': (1, 1), 'model.width': 4},
  'vit_micro': {'model.depth': 1},
  'fastgrnn': {'model.hidden': 6, 'model.gated': True, 'method.g': 'exp'},
}
STR = {'method.name': 'str', 'method.init_value': -3.0, 'dataset': 'digits'}


def images(shape=(3, 8, 8, 1)):
  return np.random.default_rng(0).standard_normal(shape, np.float32)


def make(directory, arch):
  """The folder of a run with a checkpoint, as if it had been trained."""
  config = common.get_config()
  config.update_from_flattened_dict(STR | {'model.name': arch})
  with config.unlocked():
    config.update_from_flattened_dict(MODELS[arch])
  workdir.claim(directory, config)
  method = build.method(config.method)
  model = build.model(config, 10, method)
  leaves = jax.eval_shape(model.init, jax.random.key(0), images())
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    name = paths.path_names(path)[-1]
    if name == paths.THRESHOLD:
      return jnp.full(leaf.shape, -3.0)  # 0.05 on abs(w)
    low = 0.1 if name == 'var' else -0.3
    return jnp.asarray(rng.uniform(low, 0.3, leaf.shape), 'f')

  variables = jax.tree_util.tree_map_with_path(draw, leaves)
  saved = checkpoint.Checkpoints(directory / 'checkpoints')
  with contextlib.closing(saved):
    saved.save(states.from_variables(variables, optax.sgd(0.1), 4))
  return variables
