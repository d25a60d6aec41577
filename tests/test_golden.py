"""The papers' own released code, number by number; see golden/README.md."""

import pytest

from benchmarks import fidelity


@pytest.mark.parametrize(
  ('case', 'quantity'),
  [
    (case, name)
    for case, names in fidelity.TOLERANCES.items()
    for name in names
  ],
)
def test_quantity_is_the_released_codes(case, quantity):
  q = fidelity.quantities(case)[quantity]
  assert q.ours.size
  assert q.error <= q.tolerance
