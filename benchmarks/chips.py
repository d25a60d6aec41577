"""Accelerators as published: their speed and their links.

What benchmarks/scaling.py predicts rests on these figures; the source of each
stands beside it.
"""

from __future__ import annotations

import dataclasses

# Three passes of 4,089,184,256 multiply-adds.
FLOPS = 6 * 4_089_184_256
# Flax's own ResNet50: 125,100 steps of 1024 images in 4.4 h on a TPU v3-8,
# which is 4 chips of 123 TFLOP/s.
UTILIZATION = 125_100 * 1024 / (4.4 * 3600) / 4 * FLOPS / 123e12


@dataclasses.dataclass(frozen=True)
class Chip:
  """Published figures of an accelerator, and what is assumed of it.

  Attributes:
    images: a second on one chip, ResNet50 at 224.
    group: chips joined by the fast links.
    inner: bytes/s that a chip sends over them, one way.
    outer: bytes/s that a chip sends out of its group.
    latency: seconds of a small all-reduce for each doubling of the chips.
    sources: of the figures.
  """

  images: float
  group: int
  inner: float
  outer: float
  latency: float
  sources: str


CHIPS = {
  'TPU v5e': Chip(
    UTILIZATION * 197e12 / FLOPS,
    256,
    400e9 / 2,
    6.4e12 / 8 / 256,
    3e-6,
    '197 TFLOP/s in bfloat16, 400 GB/s of interconnect both ways together, '
    '256 chips and 6.4 Tb/s of data center network a pod: '
    'https://cloud.google.com/tpu/docs/v5e',
  ),
  'TPU v5p': Chip(
    UTILIZATION * 459e12 / FLOPS,
    6144,
    1200e9 / 2,
    50e9 / 8,
    3e-6,
    '459 TFLOP/s in bfloat16, 1200 GB/s of interconnect both ways together, '
    'slices of up to 6144 chips: https://cloud.google.com/tpu/docs/v5p',
  ),
  'H100 SXM': Chip(
    56_046 / 8,
    8,
    900e9 / 2,
    400e9 / 8,
    5e-6,
    'NVLink 900 GB/s both ways together, 8 GPUs with one 400 Gb/s InfiniBand '
    'card each: MLCommons training_results_v3.0, NVIDIA/systems/'
    'dgxh100_ngc23.04_mxnet.json (an H200 has the same links); 56,046 '
    'images/s on 8 GPUs: NVIDIA/results/dgxh100_ngc23.04_mxnet/resnet/'
    'result_0.txt there',
  ),
}


def all_reduce(size: float, chips: int, chip: Chip) -> float:
  """Seconds that a chip's links are busy with an all-reduce of so many bytes.

  >>> all_reduce(450e9, 2, CHIPS['H100 SXM'])
  1.0
  """
  inner = min(chips, chip.group)
  outer = -(-chips // chip.group)
  within = 2 * (inner - 1) / inner * size / chip.inner
  return within + 2 * (outer - 1) / outer * size / inner / chip.outer
