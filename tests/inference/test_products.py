"""Products of an input with a weight, by sparse kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sparse_functions import check, normal

from str_jax.inference import functions, layout, planar

pytestmark = pytest.mark.usefixtures('kernels', 'untimed')

DOTS = {
  'rows times a matrix': ('bi,ij->bj', (3, 20), (20, 17)),
  'a vector': ('i,ij->j', (20,), (20, 17)),
  'a matrix times columns': ('ib,ji->jb', (20, 5), (17, 20)),
  'a matrix times a vector': ('i,ji->j', (20,), (17, 20)),
  'heads': ('btd,dhk->bthk', (2, 9, 20), (20, 3, 7)),
  'heads back': ('bthk,hkd->btd', (2, 9, 3, 7), (3, 7, 20)),
  'axes in another order': ('bkht,hkd->btd', (2, 7, 3, 9), (3, 7, 20)),
  'many rows': ('bi,ij->bj', (300, 40), (40, 33)),
}


@pytest.mark.parametrize('backend', ['native', 'xla'])
@pytest.mark.parametrize('name', DOTS)
def test_products_with_a_matrix(name, backend):
  spec, x, w = DOTS[name]
  weights = {'w': normal(*w, density=0.2), 'b': normal(1)}

  def function(weights, x):
    return jnp.einsum(spec, x, weights['w']) + weights['b'].reshape(()), x.sum()

  fast = check(function, weights, normal(*x), backend=backend)
  (layer,) = fast.layers
  assert (layer.name, layer.weights) == ('w', np.prod(w))
  assert layer.nonzero == np.count_nonzero(weights['w'])
  assert layer.kernel.csr == (backend == 'xla')


CONVOLUTIONS = {  # window, strides, padding, size
  'same': ((3, 3), 1, 'SAME', (7, 9)),
  'valid': ((3, 3), 1, 'VALID', (7, 9)),
  'strides, even': ((3, 3), 2, 'SAME', (8, 10)),
  'strides, odd': ((3, 3), 2, 'SAME', (9, 7)),
  'strides, valid': ((3, 3), 2, 'VALID', (8, 9)),
  'pixels': ((1, 1), 1, 'SAME', (5, 6)),
  'every second pixel': ((1, 1), 2, 'SAME', (5, 6)),
  'a stem': ((7, 7), 2, [(3, 3), (3, 3)], (15, 20)),
  'large': ((5, 5), 1, 'SAME', (9, 8)),
  'even': ((2, 2), 1, 'SAME', (7, 9)),
  'even, strides': ((4, 4), 2, [(1, 1), (1, 1)], (8, 12)),
  'a row': ((1, 5), 1, 'SAME', (7, 9)),
  'a column, strides': ((5, 1), 2, 'VALID', (17, 9)),
  'much padding': ((3, 3), 1, [(4, 0), (1, 6)], (7, 9)),
  'much padding, strides': ((3, 3), 2, [(4, 1), (3, 2)], (7, 9)),
  'left out': ((3, 3), 1, [(-1, 0), (-2, -1)], (7, 9)),
  'left out, strides': ((3, 3), 2, [(-2, -1), (-1, 1)], (9, 8)),
}


@pytest.mark.parametrize('name', CONVOLUTIONS)
@pytest.mark.parametrize('numbers', ['NHWC HWIO NHWC', 'NCHW OIHW NHWC'])
def test_convolutions(name, numbers):
  window, stride, padding, size = CONVOLUTIONS[name]
  numbers = tuple(numbers.split())
  shapes = {'N': 2, 'H': size[0], 'W': size[1], 'C': 5}
  x = normal(*(shapes[axis] for axis in numbers[0]))
  shapes = {'H': window[0], 'W': window[1], 'I': 5, 'O': 18}
  w = normal(*(shapes[axis] for axis in numbers[1]), density=0.2)

  def function(w, x):
    return jax.lax.conv_general_dilated(
      x, w, (stride, stride), padding, dimension_numbers=numbers
    )

  check(function, w, x)


def test_each_kernel_gives_the_same(monkeypatch):
  monkeypatch.setattr(layout, 'CACHE', 1 << 10)  # so that there are blocks
  x, w = normal(2, 9, 11, 20), normal(3, 3, 20, 18, density=0.2)

  def function(w, x):
    return jax.lax.conv_general_dilated(
      x, w, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )

  used = set()
  for wanted in planar._SPARSE:

    def seconds(calls, wanted=wanted):
      return {key: float(key != wanted) for key in calls}

    monkeypatch.setattr(functions, 'seconds', seconds)
    (layer,) = check(function, w, x).layers
    used.add(layer.kernel)
  assert used == {*planar._SPARSE}


@pytest.mark.parametrize('channels', [1, 15, 16, 17, 50])
@pytest.mark.parametrize('pixels', [1, 5, 16, 35])
def test_images_become_planes_and_come_back(channels, pixels):
  w = jnp.eye(channels)
  check(lambda w, x: x @ w, w, normal(pixels, channels), least=channels > 2)
