"""The papers' own released code, number by number; see golden/README.md."""

import functools
import json
import os
import subprocess
import sys

import pytest
from conftest import USERS_FLAGS

from benchmarks import fidelity, record

PROGRAM = """
import json
from benchmarks import fidelity
print(json.dumps({
  case: {name: (q.ours.size, q.error) for name, q in found.items()}
  for case in fidelity.TOLERANCES
  for found in [fidelity.quantities(case)]
}))
"""


@functools.cache
def errors():
  """Of a process that compiles as users do."""
  done = subprocess.run(
    [sys.executable, '-c', PROGRAM],
    cwd=record.ROOT,
    env=os.environ | {'XLA_FLAGS': USERS_FLAGS},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


@pytest.mark.parametrize(
  ('case', 'quantity'),
  [
    (case, name)
    for case, names in fidelity.TOLERANCES.items()
    for name in names
  ],
)
def test_quantity_is_the_released_codes(case, quantity):
  size, error = errors()[case][quantity]
  assert size
  assert error <= fidelity.TOLERANCES[case][quantity]
