"""A network from a file of PyTorch's names, made the folder of a run."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import inspect
import pathlib
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from str_jax import data, flops, models, report
from str_jax.interop import files, torch_names
from str_jax.methods import Method
from str_jax.paths import THRESHOLD
from str_jax.training import (
  build,
  flags,
  init_from,
  page,
  placement,
  plan,
  records,
  setup,
  snap,
  stage,
  state,
  workdir,
)
from str_jax.training.checkpoint import Checkpoints

# The published recipe of each network; resnet34 has that of its neighbour.
CONFIGS = {
  'resnet18': 'configs/resnet18.py',
  'resnet34': 'configs/resnet18.py',
  'resnet50': 'configs/resnet50.py',
  'mobilenet_v1': 'configs/mobilenet_v1.py',
  'resnet8': 'configs/cifar10.py',
  'resnet20': 'configs/cifar10.py',
  'resnet32': 'configs/cifar10.py',
  'resnet56': 'configs/cifar10.py',
}
_SHORT = 60


@dataclasses.dataclass(frozen=True)
class Arrived:
  """A network as a file holds it, and the run that it becomes.

  Attributes:
    file: what the file holds.
    method: None, or STR for thresholds that came along.
    variables: Linen collections.
    spec: the config's file and variant.
    config: of the run.
    dataset: of the config; a stand-in of its shape where it is not here.
    is_here: whether the data set is on this machine.
  """

  file: files.Content
  method: Method | None
  variables: dict[str, Any]
  spec: str
  config: ConfigDict
  dataset: data.Dataset
  is_here: bool


def take(
  path: pathlib.Path,
  arch: str,
  out: pathlib.Path,
  *,
  spec: str | None = None,
  overrides: tuple[str, ...] = (),
  dataset: str | None = None,
  command: str = '',
) -> tuple[Arrived, dict[str, Any]]:
  """Makes a file the folder of a run at step 0.

  Args:
    path: of the file, see `str_jax.interop.files.read`.
    arch: name of our model.
    out: the new folder.
    spec: a config and its variant, in place of the published one.
    overrides: arguments ``--config.FIELD=VALUE``.
    dataset: name of the set that the network is for, in place of the config's.
    command: for the report.

  Returns:
    What arrived, and the content of summary.json.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file cannot be read, is of another network, or does not fit
      the config or the data set; the folder is there already.
  """
  torch_names.of(arch)
  if out.exists():
    raise ValueError(
      f'{out} is to hold the imported network, but is there already: name '
      'another folder by --out.'
    )
  arrived = read(path, arch, spec, overrides, dataset)
  with snap.made_whole(out):
    return arrived, _write(path, arrived, out, command)


def read(
  path: pathlib.Path,
  arch: str,
  spec: str | None,
  overrides: tuple[str, ...],
  dataset: str | None,
) -> Arrived:
  """Reads a file and finds the config and the data set for it.

  Args:
    path: of the file.
    arch: name of our model.
    spec: as for `take`.
    overrides: as for `take`.
    dataset: as for `take`.

  Returns:
    What arrived.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: as for `take`.
  """
  file = files.content(path)
  threshold = torch_names.LEAVES[THRESHOLD]
  if 'str_jax' in file.metadata:
    raise ValueError(
      f'{path} was written by export under our own names: read it with '
      'str_jax.interop.dense_file or sparse_file, or export '
      '--to=torch.safetensors and import that.'
    )
  broken = [n for n, a in file.arrays.items() if not np.isfinite(a).all()]
  if broken:
    raise ValueError(
      f'{path} holds numbers that are not finite, in '
      f'{torch_names.few(broken)}: take a checkpoint of before that.'
    )
  if spec is None and not pathlib.Path(CONFIGS[arch]).exists():
    raise ValueError(
      f'the recipe of {arch} is {CONFIGS[arch]}, which is not in this folder: '
      'run from the folder of the repository, or name a config by --config.'
    )
  if spec is None:
    sparse = any(name.endswith(threshold) for name in file.arrays)
    spec = CONFIGS[arch] + ('' if sparse else ':dense')
  config, _ = flags.load_config(spec, overrides)
  if config.variant:
    spec = f'{spec.partition(":")[0]}:{config.variant}'
  config.model.name = arch
  if dataset is not None:
    config.dataset = dataset
  common = inspect.signature(models.create).parameters
  sizes = {
    name: value
    for name, value in config.model.items()
    if name not in common and value is not None
  }
  method, variables = init_from.network(path, file, arch, **sizes)
  params = variables['params']
  has_bias = 'bias' in params['classifier']
  if has_bias != bool(config.model.classifier_bias):
    config.model.classifier_bias = has_bias
  if method is not None:
    config.model.first_layer_dense = THRESHOLD not in params['stem']
    config.model.last_layer_dense = THRESHOLD not in params['classifier']
  found, is_here = setup.dataset_or_like(config)
  wants = (
    params['stem']['kernel'].shape[2],
    params['classifier']['kernel'].shape[-1],
  )
  has = (found.image_shape[2], found.num_classes)
  if wants != has:
    raise ValueError(
      f'{path} takes images of {wants[0]} channels and tells {wants[1]} '
      f'classes apart, but {config.dataset} has {has[0]} and {has[1]}: name '
      'its own data set by --dataset.'
    )
  return Arrived(file, method, variables, spec, config, found, is_here)


def _write(
  path: pathlib.Path, arrived: Arrived, out: pathlib.Path, command: str
) -> dict[str, Any]:
  """Writes config.json, the checkpoint of step 0, summary.json, the page."""
  config, dataset = arrived.config, arrived.dataset
  inputs = build.Inputs(dataset.image_shape, dataset.num_classes)
  planned = plan.create(config, dataset.size('train'), inputs)
  phase = planned.phases[0]
  if init_from.meaning(phase.method) != init_from.meaning(arrived.method):
    raise ValueError(
      f'{path} holds {arrived.method or "a dense network"}, but the config is '
      f'of {phase.method or "a dense one"}: name one that fits by --config, '
      'and start another method from the imported folder, by '
      '--config.init_from.'
    )
  placed = placement.create(1)
  ready = stage.create(config, planned, phase, dataset, placed)
  first = state.from_variables(arrived.variables, ready.tx, step=0)
  workdir.claim(out, config)
  with contextlib.closing(Checkpoints(out / 'checkpoints')) as checkpoints:
    checkpoints.save(jax.device_put(first, placed.shardings(ready.target)))
  summary = _summary(path, arrived, ready, command)
  records.write_json(out / 'summary.json', summary)
  page.write(out)
  return summary


def _summary(
  path: pathlib.Path, arrived: Arrived, ready: stage.Stage, command: str
) -> dict[str, Any]:
  """What summary.json holds of a network that nobody has evaluated yet."""
  config, dataset = arrived.config, arrived.dataset
  layers = report.sparsity_report(
    ready.method,
    arrived.variables,
    flops=flops.count(ready.model, dataset.image_shape),
  )
  note = f'Imported from {path.name}{told(arrived.file)}; not evaluated here.'
  return records.as_json(
    {
      'command': command,
      'config': config.to_dict(),
      'config_name': config.name,
      'variant': config.variant,
      'method': str(ready.method or 'dense'),
      'model': config.model.name,
      'dataset': dataset.name,
      'note': f'{note} {dataset.note}'.strip(),
      'steps': 0,
      'top1': None,
      'eval_loss': None,
      'best_top1': None,
      'best_step': None,
      'best_validation_top1': None,
      'sparsity': layers.sparsity,
      'weights': layers.weights,
      'nonzero': layers.nonzero,
      'dense_flops': layers.dense_flops,
      'flops': layers.flops,
      'layers': layers.to_dicts(),
      'target': None,
      'seconds': 0.0,
      'examples_per_second': None,
      'device': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
      'versions': {v: importlib.metadata.version(v) for v in ('jax', 'flax')},
    }
  )


def told(file: files.Content) -> str:
  """What stands in a file beside its arrays, as far as it is short text.

  Args:
    file: what it holds.

  Returns:
    Names and values in brackets, after a space; '' for none.

  >>> told(files.Content({}, {'epoch': '100'}, ''))
  ' (epoch 100)'
  """
  said = ', '.join(
    f'{name} {value}'
    for name, value in file.metadata.items()
    if len(name + value) < _SHORT and (name + value).isprintable()
  )
  return f' ({said})' if said else ''
