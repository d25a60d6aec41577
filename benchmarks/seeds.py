"""Several seeds of a config, trained side by side on one device.

Optimizer, phases, step and evaluation are those of str_jax.training; its loop,
logs and checkpoints are not used. A training that was stopped goes on as if it
had not been.
"""

from __future__ import annotations

import copy
import json
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import resident
from str_jax import flops, report
from str_jax.training import build
from str_jax.training import placement as placements
from str_jax.training import plan as plans
from str_jax.training import stage as stages
from str_jax.training import state as states
from str_jax.training import step as steps
from str_jax.training.stage import Stage
from str_jax.training.state import State

_SAVE_SECONDS = 60.0  # between saves, should the process be killed
_EVALUATED = 1000  # images at a time
_AT_ONCE = 200  # steps: a call of fewer is slow to start


class Training:
  """Some seeds of a config, trained side by side.

  Args:
    config: a config.
    seeds: of weights, order and augmentation.
    path: where the state is kept while the training is stopped.
  """

  def __init__(
    self, config: Any, seeds: Sequence[int], path: pathlib.Path
  ) -> None:
    self.config, self.seeds, self.path = config, list(seeds), path
    loaded = resident.load(config)
    self.dataset, self.images = loaded.dataset, loaded.splits
    inputs = build.Inputs(self.dataset.image_shape, self.dataset.num_classes)
    self.plan = plans.create(config, self.dataset.size('train'), inputs)
    self._placement = placements.create()
    self._keys = jnp.array(self.seeds, jnp.int32)
    self._stages: dict[plans.Phase, Stage] = {}
    self._compiled: dict[tuple[int, int], Callable] = {}
    self.seconds = 0.0

  def of(self, seeds: Sequence[int], path: pathlib.Path) -> Training:
    """The training of other seeds, which shares what is compiled."""
    other = copy.copy(self)
    other.seeds, other.path, other.seconds = list(seeds), path, 0.0
    other._keys = jnp.array(other.seeds, jnp.int32)
    return other

  def stage(self, phase: plans.Phase) -> Stage:
    """A phase made ready, once."""
    if phase not in self._stages:
      self._stages[phase] = stages.create(
        self.config, self.plan, phase, self.dataset, self._placement
      )
    return self._stages[phase]

  def start(self) -> State:
    """The states saved last, else those before the first step."""
    return self._restore() if self.path.exists() else self.initial()

  def initial(self) -> State:
    """The states before the first step."""
    init = self.stage(self.plan.phases[0]).init
    each = [jax.device_get(init(seed)) for seed in self.seeds]
    return jax.tree.map(lambda *x: jnp.stack(x), *each)

  def advance(self, state: State, length: int) -> State:
    """So many steps, all within a phase, which is begun if need be."""
    step = int(state.step[0])
    index = self.plan.phase_of(step)
    phases = self.plan.phases
    if step == phases[index].stop:
      old, new = self.stage(phases[index]), self.stage(phases[index + 1])
      freeze = lambda state: states.freeze(old.method, state, new.tx)
      state, index = jax.jit(jax.vmap(freeze))(state), index + 1
    if (index, length) not in self._compiled:
      self._compiled[index, length] = resident.make_steps(
        self.config, self.stage(phases[index]), self.dataset, length
      )
    state = self._compiled[index, length](
      state, self._keys, self.images['train']
    )
    bad = np.asarray(state.first_nonfinite)
    if (bad >= 0).any():
      raise FloatingPointError(f'{self.path.stem}: not finite, steps {bad}')
    return state

  def room(self, step: int) -> int:
    """The steps of the next call: an epoch's or more, to the phase's end."""
    stop = next(p.stop for p in self.plan.phases if p.stop > step)
    return min(max(self.plan.steps_per_epoch, _AT_ONCE), stop - step)

  def run(self, deadline: float) -> list[dict[str, Any]] | None:
    """Trains to the end, or until a time of ``time.perf_counter``.

    Args:
      deadline: no epoch is begun after it; the state is saved then.

    Returns:
      For each seed what it came to; None when there was not the time.
    """
    state = self.start()
    began = saved = time.perf_counter()
    earlier, first = self.seconds, int(state.step[0])
    while (step := int(state.step[0])) < self.plan.total_steps:
      now = time.perf_counter()
      self.seconds = earlier + now - began
      if now > deadline or now - saved > _SAVE_SECONDS:
        self._save(state)
        saved = now
      if now > deadline:
        return None
      state = self.advance(state, self.room(step))
      sums = jax.device_get(state.sums)
      accuracy = sums['correct'].mean() / sums['steps'].mean()
      rate = (int(state.step[0]) - first) / (time.perf_counter() - began)
      print(
        f'{self.path.stem}: step {int(state.step[0])}/{self.plan.total_steps}, '
        f'training accuracy {accuracy:.2%}, {rate:.1f} steps/s',
        flush=True,
      )
    self.seconds = earlier + time.perf_counter() - began
    results = self.results(state)
    self.path.unlink(missing_ok=True)
    return results

  def results(self, state: State) -> list[dict[str, Any]]:
    """Accuracy and sparsity of each seed's last weights."""
    stage = self.stage(self.plan.phases[-1])
    counts = flops.count(stage.model, self.dataset.image_shape)
    test, held_out = (self.evaluate(state, s) for s in ('test', 'validation'))
    rows = []
    for i, seed in enumerate(self.seeds):
      variables = jax.tree.map(lambda x, i=i: x[i], state.variables)
      layers = report.sparsity_report(stage.method, variables, flops=counts)
      rows.append(
        {
          'seed': seed,
          'top1': float(test['correct'][i]),
          'test_loss': float(test['loss'][i]),
          'validation': float(held_out['correct'][i]),
          'validation_loss': float(held_out['loss'][i]),
          'sparsity': layers.sparsity,
          'weights': layers.weights,
          'nonzero': layers.nonzero,
          'dense_flops': layers.dense_flops,
          'flops': layers.flops,
          'seconds': round(self.seconds / len(self.seeds), 1),
        }
      )
    return rows

  def evaluate(self, state: State, split: str) -> dict[str, np.ndarray]:
    """The accuracy ('correct') and the loss of each seed."""
    stage = self.stage(self.plan.phases[self.plan.phase_of(int(state.step[0]))])
    eval_step = steps.make_eval_step(stage.model, self.dataset)
    every_seed = jax.jit(jax.vmap(eval_step, in_axes=(0, None)))
    images = self.images[split]
    sums = {name: np.zeros(len(self.seeds)) for name in ('correct', 'loss')}
    for i in range(0, len(images['label']), _EVALUATED):
      batch = {k: x[i : i + _EVALUATED] for k, x in images.items()}
      batch['weight'] = jnp.ones(len(batch['label']))
      seen = every_seed(state.variables, batch)
      sums = {name: x + np.asarray(seen[name]) for name, x in sums.items()}
    return {name: x / len(images['label']) for name, x in sums.items()}

  def _describe(self) -> str:
    return json.dumps([self.config.to_dict(), self.seeds])

  def _save(self, state: State) -> None:
    self.path.parent.mkdir(parents=True, exist_ok=True)
    leaves = map(np.asarray, jax.tree.leaves(state))
    arrays = {f'{i:04}': x for i, x in enumerate(leaves)}
    facts = {'config': self._describe(), 'seconds': self.seconds}
    part = self.path.with_suffix('.part.npz')
    np.savez(part, **arrays, **facts)
    os.replace(part, self.path)

  def _restore(self) -> State:
    with np.load(self.path) as file:
      saved = dict(file)
    if str(saved.pop('config')) != self._describe():
      raise ValueError(
        f'{self.path} was saved with other settings: delete it to start anew.'
      )
    self.seconds = float(saved.pop('seconds'))
    leaves = [jnp.asarray(saved[name]) for name in sorted(saved)]
    step = int(leaves[0][0])
    phase = self.plan.phases[self.plan.phase_of(step)]
    structure = jax.tree.structure(self.stage(phase).target)
    return jax.tree.unflatten(structure, leaves)


def rate(training: Training, calls: int = 3) -> float:
  """Steps a second of all seeds together, after the first epoch."""
  state = training.advance(training.initial(), training.room(0))
  began, first = time.perf_counter(), int(state.step[0])
  for _ in range(calls):
    state = training.advance(state, training.room(int(state.step[0])))
  made = int(state.step[0]) - first
  return len(training.seeds) * made / (time.perf_counter() - began)
