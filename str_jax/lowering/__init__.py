"""Operations whose training step is fast on XLA:CPU.

XLA:CPU runs a wide dense convolution near the peak of a core, but narrow ones,
weight gradients, anything depthwise and the gradient of a max-pool several
times below it. Here the same sums are written as what it runs well: wider
convolutions, matrix products of what fits in the cache, sums of shifted
images. Other devices, and shapes not covered, get XLA's own operation.
"""

from str_jax.lowering.convolution import conv_general_dilated
from str_jax.lowering.pooling import max_pool

__all__ = ['NAMES', 'conv_general_dilated', 'max_pool']

NAMES = ('xla', 'cpu')
