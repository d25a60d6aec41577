"""A phase of the plan made ready to run: model, optimizer, compiled steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax

from str_jax import data, report
from str_jax import variables as layout
from str_jax.data.sources import Skip
from str_jax.methods import Method
from str_jax.training import build, cpu
from str_jax.training import plan as plans
from str_jax.training import state as states
from str_jax.training import step as steps
from str_jax.training.placement import Placement
from str_jax.training.state import State


@dataclasses.dataclass(frozen=True)
class Stage:
  """A phase with everything compiled for it.

  Attributes:
    phase: of the plan.
    model: a Linen module with the phase's method.
    tx: the optimizer.
    init: makes the first state from a seed.
    train_step: from state and batch to the next state; takes the state.
    eval_step: from variables and batch to sums.
    statistics: from variables to non-zeros and thresholds by layer.
    target: the abstract state with its shardings, to restore into.
  """

  phase: plans.Phase
  model: Any
  tx: optax.GradientTransformation
  init: Callable[[int], State]
  train_step: Callable[[State, Any], State]
  eval_step: Callable[[Any, Any], Any]
  statistics: Callable[[Any], Any]
  target: State

  @property
  def method(self) -> Method | None:
    """The phase's method."""
    return self.phase.method


def create(
  config: Any,
  plan: plans.Plan,
  phase: plans.Phase,
  dataset: data.Dataset,
  placement: Placement,
) -> Stage:
  """Makes a phase ready.

  Args:
    config: a config.
    plan: its plan.
    phase: one of the plan's phases.
    dataset: the data set.
    placement: where things lie.

  Returns:
    A :class:`Stage`; nothing is compiled before its first use.

  Raises:
    ValueError: a field out of range.
  """
  method = phase.method
  model, tx, init = parts(config, plan, phase, dataset)
  abstract = jax.eval_shape(init, config.seed)
  placement.share(abstract)  # whether it can be split
  here = placement.shardings(abstract)
  target = jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding
    ),
    abstract,
    here,
  )
  train_step = steps.make_train_step(
    model,
    method,
    tx,
    dataset,
    label_smoothing=config.label_smoothing,
    seed=config.seed,
    accumulate=config.get('accumulate_steps') or 1,
    whole=placement.whole,
  )
  options = cpu.compiler_options(build.lowering(config))
  return Stage(
    phase=phase,
    model=model,
    tx=tx,
    init=jax.jit(init, out_shardings=here),
    train_step=jax.jit(
      train_step,
      donate_argnums=0,
      in_shardings=(here, placement.batch),
      out_shardings=here,
      compiler_options=options,
    ),
    eval_step=jax.jit(
      steps.make_eval_step(model, dataset, placement.whole),
      in_shardings=(here.variables, placement.batch),
      out_shardings=placement.replicated,
      compiler_options=options,
    ),
    statistics=jax.jit(
      lambda variables: report.layer_statistics(method, variables),
      out_shardings=placement.replicated,
    ),
    target=target,
  )


def parts(
  config: Any, plan: plans.Plan, phase: plans.Phase, dataset: data.Dataset
) -> tuple[Any, optax.GradientTransformation, Callable[..., State]]:
  """What a phase is made of, before anything has its place.

  Args:
    config: a config.
    plan: its plan.
    phase: one of the plan's phases.
    dataset: the data set.

  Returns:
    The model, the optimizer, and what makes the first state of a seed.

  Raises:
    ValueError: a field out of range.
  """
  method = phase.method
  model = build.model(config, dataset.num_classes, method)
  tx = plans.optimizer(config, plan, phase)

  def init(seed: jax.Array) -> State:
    state = states.create(model, tx, dataset.image_shape, seed)
    # Some methods zero weights from the first step on; others check here
    # whether they fit the model.
    variables = layout.update_thresholds(method, state.variables, 0)
    return dataclasses.replace(state, variables=variables)

  return model, tx, init


def evaluate(
  stage: Stage,
  variables: Any,
  dataset: data.Dataset,
  split: str,
  placement: Placement,
  *,
  batch_size: int,
  num_workers: int = 0,
  skip: Skip | None = None,
) -> dict[str, float]:
  """Loss and accuracy over a split, every example once.

  Args:
    stage: with the compiled step.
    variables: Linen collections with the method's thresholds.
    dataset: the data set.
    split: 'validation' or 'test'.
    placement: where things lie.
    batch_size: examples a step; rounded up to a multiple of the devices.
    num_workers: processes of the input pipeline.
    skip: leave to go on without corrupt records.

  Returns:
    ``{'loss': ..., 'accuracy': ..., 'examples': ...}``.
  """
  devices = jax.device_count()
  batch_size = -(-min(batch_size, dataset.size(split)) // devices) * devices
  batches = data.eval_batches(
    dataset,
    split,
    batch_size,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
    num_workers=num_workers,
    skip=skip,
  )
  # Summed on the host in float64: a fetch a batch is cheap beside the batch,
  # and float32 sums lose examples beyond 16 million.
  total = {'loss': 0.0, 'correct': 0.0, 'examples': 0.0}
  for batch in batches:
    sums = stage.eval_step(variables, placement.put(batch))
    for name, value in jax.device_get(sums).items():
      total[name] += float(value)
  count = total['examples']
  return {
    'loss': total['loss'] / count,
    'accuracy': total['correct'] / count,
    'examples': count,
  }
