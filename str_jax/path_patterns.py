"""Weights picked by patterns of their paths."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
from collections.abc import Iterable
from typing import Any

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Patterns:
  """A ``where`` made of patterns, see :func:`matching`."""

  include: tuple[str, ...]
  exclude: tuple[str, ...] = ()

  def __call__(self, path: Path, leaf: Any) -> bool:
    del leaf
    return _any_fits(self.include, path) and not _any_fits(self.exclude, path)

  def check(self, paths: Iterable[Path]) -> None:
    """Raises a ValueError for a pattern that fits none of the paths."""
    known = {'/'.join(path): path for path in paths}
    for pattern in (*self.include, *self.exclude):
      if any(_any_fits((pattern,), path) for path in known.values()):
        continue
      near = difflib.get_close_matches(pattern, known, cutoff=0.4)
      raise ValueError(
        f'the pattern {pattern!r} should match some of the '
        f'{len(known)} leaves, but it matches none'
        + (f'; near it are {", ".join(near)}.' if near else '.')
        + ' One * is for one level, ** for any number.'
      )


def matching(*patterns: str, exclude: Iterable[str] = ()) -> Patterns:
  """Picks weights by patterns of their paths: a ``where``.

  A pattern and a path, the leaf's own name included, are split at ``/`` (in
  Haiku's names too, as ``net/~/linear``) and
  compared level by level, as :func:`fnmatch.fnmatchcase` does: ``*`` is any
  name, ``?`` any letter, ``[ab]`` one of those, upper and lower case differ.
  No wildcard goes over a ``/``, but a level ``**`` is any number of levels,
  none among them. The whole path has to fit: ``head`` is not ``head/kernel``,
  and ``head/**`` takes the bias too.

  Args:
    *patterns: a leaf is picked where one of them fits its path.
    exclude: patterns of leaves that are not picked all the same.

  Returns:
    What `str_jax.add_thresholds` and :func:`select` take as ``where``; they
    refuse a pattern that fits no path.

  Raises:
    ValueError: no pattern, an empty one, or patterns that are no strings.

  >>> where = matching('encoder/*/kernel', 'head/**', exclude=['**/bias'])
  >>> where(('encoder', 'query', 'kernel'), None)
  True
  >>> where(('encoder', 'mlp', 'up', 'kernel'), None)
  False
  >>> where(('head', 'bias'), None)
  False
  """
  if isinstance(exclude, str):  # a string is an iterable of strings too
    exclude = (exclude,)
  found = Patterns(patterns, tuple(exclude))
  if not patterns or not all(
    isinstance(p, str) and p for p in (*found.include, *found.exclude)
  ):
    raise ValueError(
      "matching wants patterns of paths, such as 'encoder/*/kernel', but got "
      f'{patterns!r} and exclude={found.exclude!r}.'
    )
  return found


def _any_fits(patterns: Iterable[str], path: Path) -> bool:
  levels = tuple('/'.join(path).split('/'))  # a name may hold some itself
  return any(_fits(tuple(p.split('/')), levels) for p in patterns)


def _fits(levels: tuple[str, ...], path: Path) -> bool:
  if not levels:
    return not path
  if levels[0] == '**':
    return _fits(levels[1:], path) or bool(path) and _fits(levels, path[1:])
  return (
    bool(path)
    and fnmatch.fnmatchcase(path[0], levels[0])
    and _fits(levels[1:], path[1:])
  )
