"""The course of a parameter that moves by decay alone, as the optimizers do."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def trajectory(
  config: Any, learning_rates: np.ndarray, decay: float, init: float
) -> np.ndarray:
  r"""s after every step, as the optimizer's decay alone moves it.

  .. math:: s_t \approx s_0\,
     \exp\Big(-\frac{\lambda}{1 - \mu} \sum_{i<t} \eta_i\Big)

  for SGD with momentum :math:`\mu` and decay :math:`\lambda`. What is
  computed is the update itself, step by step, with a loss gradient of zero.

  Args:
    config: a config; its optimizer's fields are read.
    learning_rates: [n], of every step.
    decay: of the thresholds.
    init: s at the start.

  Returns:
    [n + 1] float64: s at the start and after every step.

  STR (ICML 2020), equations 4 and 5: s decays as the weights do.
  """
  c = config.optimizer
  if not c.coupled:
    with np.errstate(over='ignore'):  # so large a decay is never proposed
      factors = np.cumprod(1 - learning_rates.astype(np.float64) * decay)
    return init * np.concatenate([[1.0], factors])
  rates = learning_rates.astype(np.float64).tolist()
  if c.name == 'sgd':
    course = _sgd(rates, decay, init, c.momentum, c.nesterov)
  else:
    course = _adam(rates, decay, init, (c.b1, c.b2, c.eps))
  return np.array(course)


def _sgd(
  rates: list[float], decay: float, s: float, momentum: float, nesterov: bool
) -> list[float]:
  course, trace = [s], 0.0
  for rate in rates:
    gradient = decay * s
    trace = gradient + momentum * trace
    s -= rate * (gradient + momentum * trace if nesterov else trace)
    course.append(s)
  return course


def _adam(
  rates: list[float], decay: float, s: float, settings: tuple[float, ...]
) -> list[float]:
  b1, b2, eps = settings
  course, first, second, left1, left2 = [s], 0.0, 0.0, 1.0, 1.0
  for rate in rates:
    gradient = decay * s
    first = b1 * first + (1 - b1) * gradient
    second = b2 * second + (1 - b2) * gradient * gradient
    left1, left2 = left1 * b1, left2 * b2
    divisor = math.sqrt(second / (1 - left2)) + eps
    if divisor:  # no decay and no eps: no step
      s -= rate * first / (1 - left1) / divisor
    course.append(s)
  return course
