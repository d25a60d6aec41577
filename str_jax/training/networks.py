"""A trained network by itself: opened without its run or its data set."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import str_jax
from str_jax import compaction, report
from str_jax.data import known
from str_jax.interop import dense_file
from str_jax.training import build, checkpoint, init_from, records, setup


@dataclasses.dataclass(frozen=True)
class Network:
  """A trained network, opened without its data set.

  Attributes:
    config: of its run.
    step: of the checkpoint.
    method: that the checkpoint was made with.
    trained: the checkpoint's variables, with thresholds.
    model: dense, in float32.
    variables: the effective weights, -0.0 as 0.0, and the statistics.
  """

  config: Any
  step: int
  method: Any
  trained: Any
  model: Any
  variables: Any

  @property
  def bytes(self) -> int:
    """What the numbers take as they are."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(self.variables))

  @property
  def layers(self) -> report.Report:
    """The report of its layers."""
    return report.sparsity_report(None, self.variables)

  @property
  def metadata(self) -> dict[str, Any]:
    """What a file says of it; `model` is what `models.create` takes."""
    arch = self.config.model.name
    return {
      'arch': arch,
      'model': {'name': arch, **dense_file.settings(self.model, arch)},
      'method': repr(self.method),
      'step': self.step,
      'str_jax': str_jax.__version__,
    }

  def compact(self) -> Network:
    """The same without what died."""
    model, variables = compaction.compact(self.model, self.variables)
    return dataclasses.replace(self, model=model, variables=variables)

  def image_shape(self) -> tuple[int, ...]:
    """Of an image, from the config or the data set.

    Returns:
      (height, width, channels).

    Raises:
      ValueError: neither says it.
    """
    config = self.config
    usual = known.KNOWN.get(config.dataset)
    size = config.get('image_size') or (usual and usual.image_size)
    stem = self.variables['params'].get('stem')
    if size and stem:
      return size, size, stem['kernel'].shape[2]
    try:
      return setup.dataset(config).image_shape
    except FileNotFoundError as error:
      raise ValueError(
        'the config does not say the shape of an image of '
        f'{config.dataset}, and the data set is not on this machine: give it '
        'by --image_shape=H,W,C.'
      ) from error


def load(directory: pathlib.Path, which: str = 'last') -> Network:
  """The network of a checkpoint.

  Args:
    directory: the folder of a run.
    which: 'last', 'best' on validation, or a step.

  Returns:
    The network.

  Raises:
    FileNotFoundError: no run there, or no such checkpoint.
    ValueError: a file of the run cannot be read, or it holds several runs.
  """
  path = directory / 'config.json'
  config = ConfigDict(records.read_json(path))
  missing = {'model', 'method', 'optimizer', 'dataset'} - {*config}
  if missing:
    raise ValueError(
      f'{path} lacks {", ".join(sorted(missing))}: restore it, or use the '
      'version of str_jax that the run was made with.'
    )
  rounds = config.get('imp', {}).get('rounds')
  if rounds:
    last = directory / f'round-{rounds}'
    raise ValueError(f'{directory} holds several runs: name one, as {last}.')
  step = checkpoint.Checkpoints(directory / 'checkpoints').find(which)
  trained = checkpoint.read_variables(directory, step)
  method = init_from.method_of(config, trained)
  frozen = str_jax.freeze(method, jax.tree.map(jnp.asarray, trained))
  variables = jax.tree.map(lambda leaf: np.asarray(leaf) + 0, frozen)
  config.model.dtype, config.model.lowering = 'float32', 'xla'
  classes = variables['params']['classifier']['kernel'].shape[-1]
  model = build.model(config, classes, None)
  return Network(config, step, method, trained, model, variables)
