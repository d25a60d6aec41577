"""Reads from a compiled program what crosses devices.

XLA prints an optimized module as text, an instruction a line. Found in it are
the collectives, the bytes of each, and how often each runs a step: within a
loop as often as XLA knows that the loop does.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re

KINDS = (
  'all-reduce',
  'all-gather',
  'reduce-scatter',
  'collective-permute',
  'collective-broadcast',
  'all-to-all',
  'ragged-all-to-all',
)
_INSTRUCTION = re.compile(r'\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\(')


@dataclasses.dataclass(frozen=True)
class Collective:
  """An instruction that crosses devices.

  Attributes:
    kind: one of KINDS.
    arrays: (name of the operation it comes from, bytes on one device) of
      each array.
    computation: where it stands.
    times: how often it runs a step; None within a loop of unknown length.
  """

  kind: str
  arrays: tuple[tuple[str, int], ...]
  computation: str
  times: int | None

  @property
  def bytes(self) -> int:
    """Of all arrays, each time it runs."""
    return sum(size for _, size in self.arrays)


def collectives(hlo: str) -> list[Collective]:
  """Every collective of a compiled program, asynchronous ones once.

  Its bytes are those of what goes in or of what comes out, whichever is more.
  All branches of a conditional count.

  Args:
    hlo: text of an optimized HLO module, as ``compiled.as_text()`` gives it.

  Returns:
    In the order of the text.
  """
  computation, entry, found = '', '', []
  shapes: dict[str, list[int]] = {}  # of this computation
  callers = collections.defaultdict(list)
  for line in hlo.splitlines():
    if header := re.match(r'(ENTRY )?%?([\w.\-]+) .*\{$', line):
      computation = header[2]
      entry = computation if header[1] else entry
      shapes = {}
    match = _INSTRUCTION.match(line)
    if not match:
      continue
    name, shape, op = match.groups()
    shapes[name] = _sizes(shape)
    rest = line[match.end() :]
    times = _trips(rest) if op == 'while' else 1
    for callee in () if op.endswith(('-done', '-update')) else _called(rest):
      callers[callee].append((computation, times))
    kind = op.removesuffix('-start')
    if kind in KINDS:
      operands = re.findall(r'%([\w.\-]+)', _until_closed(rest))
      inputs = [size for o in operands for size in shapes[o]]
      outputs = shapes[name]
      if op != kind and kind != 'all-reduce':  # (inputs, outputs, contexts)
        outputs = outputs[len(inputs) : 2 * len(inputs)]
      sizes = max(inputs, outputs, key=sum)
      named = re.search(r'op_name="([^"]*)"', rest)
      names = _names(named[1] if named else '')
      if len(names) == 1:
        names *= len(sizes)
      elif len(names) != len(sizes):
        names = [''] * len(sizes)
      found.append((kind, tuple(zip(names, sizes, strict=True)), computation))

  def times_of(name: str) -> int | None:
    if name == entry:
      return 1
    total = 0
    for caller, times in callers[name]:
      outer = times_of(caller)
      if outer is None or times is None:
        return None
      total += outer * times
    return total

  return [Collective(*fields, times_of(fields[2])) for fields in found]


def _sizes(shape: str) -> list[int]:
  """Bytes of the arrays of a shape, a tuple's too."""
  sizes = []
  for dtype, dims in re.findall(r'\b([a-z]\w*)\[([\d,]*)\]', shape):
    bits = re.search(r'\d+', dtype)  # of pred: none
    count = math.prod(int(d) for d in dims.split(',') if d)
    sizes.append(-(-count * int(bits[0] if bits else 8) // 8))
  return sizes


def _until_closed(text: str) -> str:
  """What stands before the parenthesis that closes an open one."""
  depth = 1
  for i, letter in enumerate(text):
    depth += (letter == '(') - (letter == ')')
    if not depth:
      return text[:i]
  return text


def _called(rest: str) -> list[str]:
  one = re.findall(r'(?:to_apply|calls|body|condition)=%?([\w.\-]+)', rest)
  several = re.findall(r'(?:branch|called)_computations=\{([^}]*)\}', rest)
  return one + re.findall(r'[\w.\-]+', ' '.join(several))


def _trips(rest: str) -> int | None:
  match = re.search(r'known_trip_count\D*(\d+)', rest)
  return int(match[1]) if match else None


def _names(name: str) -> list[str]:
  """All of ``a/(b:c)``, as XLA writes the names of what it combines."""
  for group in re.finditer(r'(?:^|/)\(', name):
    inside = _until_closed(name[group.end() :])
    before, after = name[: group.end() - 1], name[group.end() :]
    depth, parts = 0, ['']
    for letter in inside:
      depth += (letter == '(') - (letter == ')')
      if letter == ':' and not depth:
        parts.append('')
      else:
        parts[-1] += letter
    if len(parts) > 1:
      after = after[len(inside) + 1 :]
      return [n for part in parts for n in _names(before + part + after)]
  return [name]


def operations(hlo: str) -> collections.Counter[str]:
  """How often each operation stands in a module; asynchronous ones once."""
  matches = map(_INSTRUCTION.match, hlo.splitlines())
  names = (m[3].removesuffix('-start') for m in matches if m)
  return collections.Counter(name for name in names if name[-5:] != '-done')
