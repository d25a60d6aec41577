"""Learning-rate schedules, by step or held for an epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

Schedule = Callable[[jax.Array], jax.Array]

NAMES = ('constant', 'cosine', 'multistep', 'exponential')
HOLDS = ('step', 'epoch')


def create(
  name: str,
  learning_rate: float,
  *,
  total_steps: int,
  steps_per_epoch: int,
  warmup_steps: int = 0,
  hold: str = 'step',
  boundaries_epochs: Sequence[float] = (),
  factor: float = 0.1,
) -> Schedule:
  r"""A learning rate as a function of the number of updates made so far.

  With t and T counted in units of a step, or of an epoch where the value is
  held for one, w units of warm-up and the peak :math:`\eta`:

  .. math::
     \eta_t = \eta\,\frac{t + 1}{w} \;(t < w), \qquad
     \eta_t = \eta \cdot \begin{cases}
       1 & \text{constant} \\
       \tfrac12 (1 + \cos(\pi (t - w) / (T - w))) & \text{cosine} \\
       factor^{\#\{b \le t\}} & \text{multistep} \\
       factor^{e} & \text{exponential, } e \text{ epochs after warm-up}
     \end{cases}

  Args:
    name: one of 'constant', 'cosine', 'multistep', 'exponential'.
    learning_rate: the peak.
    total_steps: length of the run, in steps.
    steps_per_epoch: length of an epoch, in steps.
    warmup_steps: length of the linear warm-up, in steps.
    hold: 'step', or 'epoch' for one value an epoch, as both papers do.
    boundaries_epochs: multistep's boundaries, in epochs from the start.
    factor: what multistep and exponential multiply by.

  Returns:
    A function from an integer step, traced or not, to a float32 scalar.

  Raises:
    ValueError: an unknown name or hold, a warm-up longer than the run, or a
      boundary that is not above 0.

  STR (ICML 2020), appendix: cosine with 5 epochs of warm-up, changed once an
  epoch.

  >>> schedule = create('cosine', 0.256, total_steps=1000, steps_per_epoch=10,
  ...                   warmup_steps=50, hold='epoch')
  >>> [round(float(schedule(step)), 4) for step in (0, 9, 10, 50, 999)]
  [0.0512, 0.0512, 0.1024, 0.256, 0.0001]
  """
  for what, value, known in (('schedule', name, NAMES), ('hold', hold, HOLDS)):
    if value not in known:
      raise ValueError(
        f'{what} needs to be one of {", ".join(known)}, got {value!r}.'
      )
  if warmup_steps > total_steps or warmup_steps < 0:
    raise ValueError(
      f'the warmup_steps need to lie between 0 and the {total_steps} of the '
      f'run, got {warmup_steps}.'
    )
  if any(epoch <= 0 for epoch in boundaries_epochs):
    raise ValueError(
      'the boundaries_epochs need to be above 0, epochs from the start, got '
      f'{tuple(boundaries_epochs)}.'
    )
  unit = steps_per_epoch if hold == 'epoch' else 1
  warmup = warmup_steps / unit
  total = total_steps / unit

  def shape(t: jax.Array) -> jax.Array:
    if name == 'cosine':
      progress = jnp.clip((t - warmup) / max(total - warmup, 1e-9), 0, 1)
      return 0.5 * (1 + jnp.cos(jnp.pi * progress))
    epoch = t * (unit / steps_per_epoch)
    if name == 'multistep':
      passed = [(epoch >= b).astype(jnp.float32) for b in boundaries_epochs]
      return factor ** jnp.asarray(sum(passed, jnp.float32(0)))
    if name == 'exponential':
      return factor ** (epoch - warmup_steps / steps_per_epoch)
    return jnp.ones_like(t)

  def schedule(step: jax.Array) -> jax.Array:
    t = (jnp.asarray(step) // unit).astype(jnp.float32)
    rising = (t + 1) / max(warmup, 1)
    return learning_rate * jnp.where(t < warmup, rising, shape(t))

  return schedule
