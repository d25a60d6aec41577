"""The trainer's own step for a network and a method, as benchmarks run it."""

from __future__ import annotations

import time
from typing import Any

from benchmarks import record
from benchmarks.alternate import Program
from str_jax.training import cpu

# Image size, classes, images a step on a CPU.
MODELS = {
  'resnet50': (224, 1000, 16),
  'resnet18': (224, 1000, 16),
  'mobilenet_v1': (224, 1000, 16),
  'resnet20': (32, 10, 128),
  'convnet': (8, 10, 64),  # small: for the tests, and no peer has it
}
# As in the final part of a run: the sparsity no longer rises.
PRUNED = {
  'method.sparsity': 0.9,
  'method.start_steps': 0,
  'method.end_steps': 1,
}
METHODS: dict[str, dict[str, Any]] = {
  'dense': {},
  'str': {
    'method.init_value': -3200.0,
    'optimizer.norm_decay': 2.251757813e-5,
  },
  'str_target': {
    'method.name': 'str',
    'method.target': 0.9,
    'method.start_steps': 0,
    'method.end_steps': 1,
  },
  'st3': PRUNED,
  'st3_sigma': PRUNED,
  'gmp': PRUNED,
  'dnw': {'method.sparsity': 0.9},
  'feather': PRUNED,
}


def prepare(
  model: str,
  method: str,
  batch: int,
  dtype: str = 'float32',
  lowering: str = 'auto',
) -> tuple[Any, Any, dict[str, Any]]:
  """The trainer's stage for generated images; nothing is compiled yet.

  Args:
    model: a key of ``MODELS``.
    method: a key of ``METHODS``.
    batch: images a step.
    dtype: of the computation.
    lowering: as the config's model.lowering.

  Returns:
    The stage, the placement, and the shapes of a batch, placed.
  """
  import jax
  import numpy as np

  from str_jax import data
  from str_jax.training import build, flags, plan, stage
  from str_jax.training import placement as placements

  size, classes, _ = MODELS[model]
  config, _ = flags.load_config(
    str(record.ROOT / 'configs' / 'fake.py'), [f'--config.batch_size={batch}']
  )
  fields = {'model.name': model, 'model.dtype': dtype, 'method.name': method}
  fields |= {'model.classifier_bias': False, 'model.lowering': lowering}
  fields |= {'total_steps': 100_000}
  config.update_from_flattened_dict(fields | METHODS[method])
  dataset = data.load(
    'fake', image_size=size, fake_classes=classes, fake_examples=batch
  )
  inputs = build.Inputs(dataset.image_shape, classes)
  course = plan.create(config, batch, inputs)
  placement = placements.create()
  made = stage.create(config, course, course.phases[0], dataset, placement)
  like = lambda shape, dtype: jax.ShapeDtypeStruct(
    shape, dtype, sharding=placement.batch
  )
  shapes = {
    'image': like((batch, *dataset.image_shape), np.uint8),
    'label': like((batch,), np.int32),
  }
  return made, placement, shapes


def ours(
  model: str, method: str, batch: int, dtype: str, lowering: str = 'auto'
) -> Program:
  """The trainer's step, compiled here and not taken from a cache."""
  import jax
  import numpy as np

  made, placement, shapes = prepare(model, method, batch, dtype, lowering)
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, shapes['image'].shape, np.uint8)
  labels = rng.integers(0, MODELS[model][1], batch, np.int32)
  batch_of = placement.put({'image': images, 'label': labels})
  state = [made.init(0)]
  began = time.perf_counter()
  step = made.train_step.lower(state[0], batch_of).compile()
  seconds = time.perf_counter() - began
  cpu.release_memory()  # as the trainer does

  def run(steps: int) -> None:
    for _ in range(steps):
      state[0] = step(state[0], batch_of)
    jax.block_until_ready(state[0])
    if int(state[0].first_nonfinite) >= 0:
      raise FloatingPointError(f'{model} {method}: loss is not finite')

  memory = step.memory_analysis()
  facts = {
    'argument_bytes': memory.argument_size_in_bytes,
    'temporary_bytes': memory.temp_size_in_bytes,
    'compile_seconds': round(seconds, 2),
  }
  device = jax.devices()[0]
  if device.platform == 'cpu':
    return Program(run, facts)
  peak = lambda: device.memory_stats()['peak_bytes_in_use']
  return Program(run, facts, peak)
