"""A target: how sparse the whole network is to be, to the weight."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from str_jax import quantile
from str_jax.methods import numeric
from str_jax.paths import layer_name

_RANGES = (  # of the ways to ask: from, up to, and what is just outside
  ('sparsity', 0, 1, 'a fraction of zeros in [0, 1); 90% is 0.9'),
  ('nonzero', 1, math.inf, 'a number of weights kept, 1 or more'),
  ('flops', 0, 1, 'a fraction of the FLOPs kept in (0, 1]; 5% is 0.05'),
  ('madds', 1, math.inf, 'a number of multiply-adds kept, 1 or more'),
)


@dataclasses.dataclass(frozen=True)
class Target:
  r"""What a network may keep, counted over all its layers, dense ones too.

  .. math:: c = \min \{ c \ge 0 :
     \sum_l u_l\, \#\{ i : |w_{l,i}| > c\, \sigma_l \} \le K \}

  with u_l = 1 for weights and the multiply-adds of a weight for FLOPs. Give
  one of the four:

  Args:
    sparsity: fraction of zeros over all weights, in [0, 1).
    nonzero: number of weights kept.
    flops: fraction of the dense network's multiply-adds kept, in (0, 1].
    madds: number of multiply-adds kept, for one example.
    uses: how often a weight of each layer is used for one example, by the
      layer's path, a mapping or pairs: its multiply-adds over its weights.
      Needed for the last two to be found.
    floor: the least number of weights that every layer keeps.

  Raises:
    ValueError: none or more than one of the four, or one out of range.

  >>> Target(sparsity=0.9)
  Target(sparsity=0.9)
  """

  sparsity: float | None = None
  nonzero: int | None = dataclasses.field(default=None, kw_only=True)
  flops: float | None = dataclasses.field(default=None, kw_only=True)
  madds: int | None = dataclasses.field(default=None, kw_only=True)
  uses: tuple[tuple[str, int], ...] | Mapping[str, int] | None = (
    dataclasses.field(default=None, kw_only=True)
  )
  floor: int = dataclasses.field(default=0, kw_only=True)

  def __post_init__(self) -> None:
    numeric.check(self)
    if isinstance(self.uses, Mapping):
      object.__setattr__(self, 'uses', tuple(sorted(self.uses.items())))
    asked = [name for name, *_ in _RANGES if getattr(self, name) is not None]
    if len(asked) != 1:
      raise ValueError(
        'a target is one of sparsity, nonzero, flops and madds, got '
        f'{" and ".join(asked) or "none of them"}.'
      )
    for name, low, high, wanted in _RANGES:
      value = getattr(self, name)
      if value is None:
        continue
      inside = low < value <= high if name == 'flops' else low <= value < high
      if not inside:
        raise ValueError(f'the target {name} must be {wanted}, got {value}.')
    if self.floor < 0:
      raise ValueError(
        f'the floor of a target must be 0 weights or more, got {self.floor}.'
      )

  def __repr__(self) -> str:
    name, value = self.asked
    floor = f', floor={self.floor}' if self.floor else ''
    return f'Target({name}={value}{floor})'

  @property
  def asked(self) -> tuple[str, float]:
    """Which of the four, and its value."""
    for name, *_ in _RANGES:
      if getattr(self, name) is not None:
        return name, getattr(self, name)
    raise AssertionError

  @property
  def counts_flops(self) -> bool:
    """Whether it is in multiply-adds, not in weights."""
    return self.flops is not None or self.madds is not None

  def kept(self, total: int) -> int:
    """What may be kept of a total, exactly.

    Args:
      total: weights or multiply-adds of all layers.

    Returns:
      The largest number that meets the target.

    >>> Target(0.9).kept(23_824), Target(flops=0.07).kept(100)
    (2382, 7)
    """
    name, value = self.asked
    if name == 'sparsity':
      value = 1 - value
    if name in ('nonzero', 'madds'):
      return int(value)
    # A product such as 0.07 * 100 = 7.000000000000001 is no weight more.
    return math.floor(round(value * total, 6))

  def factors(
    self,
    weights: Mapping[str, jax.Array],
    dense: Mapping[str, int],
    portion: jax.Array | float = 1.0,
    *,
    compared: Sequence[jax.Array] | None = None,
    scales: Sequence[Any] | None = None,
    near: jax.Array | None = None,
  ) -> list[jax.Array]:
    """The factor c of every weight, equal but for layers at their floor.

    Args:
      weights: by path, those that have thresholds c * scale.
      dense: by path, the number of weights of each layer without any.
      portion: of what is to be zeroed, how much is by now; at 1 exactly.
      compared: what the thresholds of each weight are compared with, see
        :meth:`str_jax.methods.Method.compared`; the weights by default. Groups
        of weights are zeroed whole, so the last one may go beyond the target.
      scales: see :func:`str_jax.quantile.kth_magnitude`.
      near: see there.

    Returns:
      A float32 scalar for each weight.

    Raises:
      ValueError: the target is out of reach, or the uses of a layer are
        missing.
    """
    kernels = list(weights.values() if compared is None else compared)
    groups = [w.size // m.size for w, m in zip(weights.values(), kernels)]
    # Of each layer, the groups that stay.
    floors = [
      min(math.ceil(self.floor / n), m.size)
      for m, n in zip(kernels, groups, strict=True)
    ]
    uses, zeros = self._zeros(
      weights, dense, [k * n for k, n in zip(floors, groups, strict=True)]
    )
    portion = jnp.asarray(portion, jnp.float32)
    moving = jnp.floor(zeros * portion)
    rank = jnp.where(portion < 1, quantile.rank(moving), quantile.rank(zeros))
    most = [m.size - k for m, k in zip(kernels, floors, strict=True)]
    c = quantile.kth_magnitude(
      kernels,
      rank,
      uses=[u * n for u, n in zip(uses, groups, strict=True)],
      scales=scales,
      near=near,
      most=most if self.floor else None,
    )
    c = jnp.where(portion > 0, c, 0.0)
    if not self.floor:
      return [c] * len(kernels)
    # A layer at its floor keeps its largest weights, whatever c may be.
    caps = quantile.kth_magnitudes(kernels, most, scales=scales)
    return list(jnp.minimum(c, caps))

  def _zeros(
    self,
    weights: Mapping[str, jax.Array],
    dense: Mapping[str, int],
    floors: Sequence[int],
  ) -> tuple[tuple[int, ...], int]:
    """The uses of each weight, and how many are to be zeroed in all."""
    uses = self._uses((*weights, *dense))
    sizes = [w.size for w in weights.values()]
    fixed = sum(n * uses[path] for path, n in dense.items())
    least = fixed + sum(
      n * uses[path] for path, n in zip(weights, floors, strict=True)
    )
    total = fixed + sum(
      n * uses[path] for path, n in zip(weights, sizes, strict=True)
    )
    kept = self.kept(total)
    if not least <= kept <= total:
      raise ValueError(self._out_of_reach(least, kept, total))
    return tuple(uses[path] for path in weights), total - kept

  def _uses(self, paths: Sequence[str]) -> dict[str, int]:
    if not self.counts_flops:
      return dict.fromkeys(paths, 1)
    known = dict(self.uses or ())
    missing = [p for p in map(layer_name, paths) if p not in known]
    if missing:
      raise ValueError(
        'a target of FLOPs needs the uses of every layer, but those of '
        f'{", ".join(missing)} are missing.'
      )
    return {path: known[layer_name(path)] for path in paths}

  def _out_of_reach(self, least: int, kept: int, total: int) -> str:
    name, value = self.asked
    unit = 'multiply-adds' if self.counts_flops else 'weights'
    if name == 'sparsity':
      # Rounded towards what can be reached.
      most = math.floor((1 - least / total) * 1e6) / 1e6
      reachable = f'0 to {most:g}'
    elif name == 'flops':
      reachable = f'{math.ceil(least / total * 1e6) / 1e6:g} to 1'
    else:
      reachable = f'{max(least, 1):,} to {total:,}'
    return (
      f'the target {name}={value} is to keep {kept:,} of {total:,} {unit}, '
      f'but {least:,} (the dense layers and floors) to {total:,} can be '
      f'kept: ask for {name} from {reachable}, or leave fewer layers dense'
      f'{", or lower the floor" if self.floor else ""}.'
    )
