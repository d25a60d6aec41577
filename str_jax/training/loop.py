"""The training loop: from a config to a folder with everything in it."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from str_jax.paths import kernels
from str_jax.training import (
  build,
  checkpoint,
  cpu,
  distributed,
  finish,
  forecast,
  init_from,
  norms,
  workdir,
  writers,
  writers_wandb,
)
from str_jax.training import plan as plans
from str_jax.training import state as states
from str_jax.training.interrupt import Interrupt
from str_jax.training.metrics import Log, Silent
from str_jax.training.setup import Setup
from str_jax.training.stage import Stage
from str_jax.training.state import State

Initial = Callable[['Run', Stage], State]


def train(
  config: Any, directory: pathlib.Path, command: str = ''
) -> dict[str, Any]:
  """Trains, evaluates and reports a network; goes on where it was stopped.

  Args:
    config: see configs/common.py.
    directory: the folder of the run; the same again resumes it.
    command: what started it, for the report.

  Returns:
    The content of summary.json.

  Raises:
    ValueError: a field or a folder that cannot be used, or a loss that is
      not finite.
    FileNotFoundError: the data set is not there.
  """
  build.inline_budget(config, directory)
  workdir.check(directory, config)
  summary = finish.finished(directory)
  if summary is not None:
    return summary
  return Run(config, directory).complete(command)


class Run(Setup):
  """A run that trains: see :class:`Setup` for what it is made of."""

  def complete(
    self, command: str, initial: Initial | None = None
  ) -> dict[str, Any]:
    """Trains from where the run stands to its end.

    Args:
      command: what started it, for the report.
      initial: makes the state of a run that has no checkpoint yet; by default
        random weights, or those of init_from.

    Returns:
      The content of summary.json.
    """
    self.check_batch()
    writers_wandb.check(self.config.get('wandb'))
    with (
      workdir.held(self.directory),
      contextlib.closing(self.checkpoints),
      Interrupt() as interrupt,
    ):
      stage, state = self.start(initial)
      with contextlib.closing(self.open_log(int(state.step))) as log:
        for phase in self.plan.phases:
          if int(state.step) >= phase.stop:
            continue
          if int(state.step) == phase.start and phase.start:
            stage, state = self.freeze(stage, state, phase)
          state = self.train_phase(stage, state, log, interrupt)
        return finish.finish(self, stage, state, log, command)

  def start(self, initial: Initial | None = None) -> tuple[Stage, State]:
    """The newest checkpoint's stage and state, or the initial ones."""
    ready = {0: self.first_stage}

    def stage_of(step: int) -> Stage:
      index = self.plan.phase_of(step)
      if index not in ready:
        ready[index] = self.stage(self.plan.phases[index])
      return ready[index]

    state = self.checkpoints.restore_latest(lambda step: stage_of(step).target)
    if state is not None:
      step = int(state.step)
      print(f'goes on from step {step} of {self.plan.total_steps}', flush=True)
      return stage_of(step), state
    if self.placement.fsdp > 1:
      part, whole = self.placement.share(self.first_stage.target)
      print(f'a device holds {part:,} of the {whole:,} bytes of the state')
    warning = forecast.warning(self.config, self.plan)
    if warning is not None:
      print(f'warning: {warning}', flush=True)
    state = (initial or Run.first_state)(self, self.first_stage)
    self.checkpoints.save(state)
    return self.first_stage, state

  def first_state(self, stage: Stage) -> State:
    """Random weights, or those of init_from."""
    state = stage.init(self.config.seed)
    if self.config.init_from is None:
      return state
    variables = init_from.load(
      pathlib.Path(self.config.init_from),
      state.variables,
      self.config.model.name,
      stage.method,
    )
    return self.state_of(variables, stage, step=0)

  def freeze(
    self, stage: Stage, state: State, phase: plans.Phase
  ) -> tuple[Stage, State]:
    """The next phase, which starts from the frozen weights of the last."""
    new = self.stage(phase)
    frozen = jax.jit(
      lambda state: states.freeze(stage.method, state, new.tx),
      out_shardings=self.placement.shardings(new.target),
    )
    return new, frozen(state)

  def open_log(self, start_step: int) -> Log | Silent:
    """The run's log from a step on."""
    if not distributed.is_first():
      return Silent()
    return Log(
      self.directory,
      self.config,
      start_step=start_step,
      total_steps=self.plan.total_steps,
      batch_size=self.config.batch_size,
    )

  def train_phase(
    self, stage: Stage, state: State, log: Log | Silent, interrupt: Interrupt
  ) -> State:
    """Trains to the end of a stage's phase."""
    start = int(state.step)
    last = stage.phase.stop
    with contextlib.closing(
      self.placement.ahead(self.batches(start))
    ) as batches:
      for step in range(start + 1, last + 1):
        state = stage.train_step(state, next(batches))
        self.placement.settle(state)
        if step == start + 1:
          cpu.release_memory()
        state = self.after_step(stage, state, log, interrupt, step)
    return state

  def after_step(
    self,
    stage: Stage,
    state: State,
    log: Log | Silent,
    interrupt: Interrupt,
    step: int,
  ) -> State:
    """Logs, evaluates and saves where a step calls for it, or ends the run."""
    config, plan = self.config, self.plan
    last = step == stage.phase.stop
    if step % config.log_every_steps == 0 or last:
      state = self.log_train(stage, state, log)
    evaluates = step % plan.eval_every == 0 or last
    if evaluates:
      self.check_finite(state)
      if step == plan.total_steps and config.get('norm_batches'):
        state = norms.renewed(self, stage, state, config.norm_batches)
      self.checkpoints.save(state, self.log_validation(stage, state, log))
      variables = self.placement.readable(state.variables)
      if distributed.is_first():
        log.histograms(writers.distributions(stage.method, variables), step)
    stopped_by = interrupt.at(step)
    if not evaluates and (
      step % plan.checkpoint_every == 0 or step == plan.kept_step or stopped_by
    ):
      self.check_finite(state)
      self.checkpoints.save(state)
    if stopped_by:
      log.say(
        f'stopped by {stopped_by} at step {step}; the same command goes on '
        'from here.'
      )
      raise SystemExit(0)
    return state

  def log_train(self, stage: Stage, state: State, log: Log | Silent) -> State:
    """Writes the training metrics since the last line, and starts new ones."""
    step = int(state.step)
    sums = {k: float(v) for k, v in jax.device_get(state.sums).items()}
    self.check_finite(state)
    statistics = jax.device_get(stage.statistics(state.variables))
    nonzero = {k: int(v) for k, v in statistics['nonzero'].items()}
    sizes = {k: w.size for k, w in kernels(state.variables['params']).items()}
    log.train(
      {
        'step': step,
        'epoch': round(step / self.plan.steps_per_epoch, 3),
        'loss': sums['loss'] / sums['steps'],
        'accuracy': sums['correct'] / sums['steps'],
        'grad_norm': sums['grad_norm'] / sums['steps'],
        'learning_rate': float(self.plan.learning_rate(jnp.int32(step - 1))),
        'sparsity': 1 - sum(nonzero.values()) / sum(sizes.values()),
        'layer_sparsity': {k: 1 - nonzero[k] / sizes[k] for k in nonzero},
        'layer_threshold': {
          k: float(v) for k, v in statistics['threshold'].items()
        },
      }
    )
    zeros = self.placement.lay(states.zero_sums())
    return dataclasses.replace(state, sums=zeros)

  def log_validation(
    self, stage: Stage, state: State, log: Log | Silent
  ) -> float:
    """Evaluates on validation; the accuracy, or UNRANKED before the target."""
    if self.dataset.splits['validation'] is None:
      return checkpoint.UNRANKED
    began = time.perf_counter()
    step = int(state.step)
    result = self.evaluate(stage, state.variables, 'validation')
    log.validation(
      {
        'step': step,
        'epoch': round(step / self.plan.steps_per_epoch, 3),
        'loss': result['loss'],
        'accuracy': result['accuracy'],
      },
      began,
    )
    settled = step >= self.plan.settled_step
    return result['accuracy'] if settled else checkpoint.UNRANKED

  def check_finite(self, state: State) -> None:
    """Stops the run if it left the finite numbers: that is never saved."""
    first = int(state.first_nonfinite)
    if first >= 0:
      raise ValueError(
        f'the run left the finite numbers at step {first}; the last '
        f'checkpoint before it stands in {self.directory}/checkpoints. Lower '
        'schedule.learning_rate, lengthen the warm-up or set '
        'optimizer.clip_norm.'
      )
