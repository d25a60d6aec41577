"""What benchmarks/gpu.py runs, in processes of their own; flags for XLA."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

from benchmarks import gpu_tables, our_step, processes
from benchmarks.alternate import Program

FLAGS = {
  'latency hiding': '--xla_gpu_enable_latency_hiding_scheduler=true',
  'no autotuning': '--xla_gpu_autotune_level=0',
  'no Triton products': '--xla_gpu_enable_triton_gemm=false',
  'Triton for all products': '--xla_gpu_triton_gemm_any=true',
  'cuBLASLt': '--xla_gpu_enable_cublaslt=true',
  'no command buffers': '--xla_gpu_enable_command_buffer=',
  'command buffers for all': '--xla_gpu_enable_command_buffer='
  'FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,CONDITIONAL,WHILE',
  'NCHW convolutions': '--xla_gpu_force_conv_nchw=true',
  'NHWC convolutions': '--xla_gpu_force_conv_nhwc=true',
  'cuDNN fusions': '--xla_gpu_cudnn_gemm_fusion_level=2',
  'convolution fusions': '--xla_gpu_experimental_enable_conv_fusion=true',
}
# Beside PyTorch's process: only what is needed, as it is needed.
MEMORY = {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'}
_PROBE = 'import jax; jax.block_until_ready(jax.jit(lambda x: x + 1)(1.0))'


def matmul(size: int, dtype: str, precision: str) -> Program:
  """Products of two square matrices of random numbers."""
  import jax
  import jax.numpy as jnp

  keys = jax.random.split(jax.random.key(0))
  a, b = (jax.random.normal(key, (size, size), dtype) for key in keys)
  product = jax.jit(lambda a, b: jnp.matmul(a, b, precision=precision))

  def run(steps: int) -> None:
    for _ in range(steps):
      out = product(a, b)
    out.block_until_ready()

  return Program(run)


def profiled(
  model: str, method: str, batch: int, dtype: str, out: str
) -> Program:
  """Our step; one of it is traced, and its operations are among the facts."""
  import jax

  program = our_step.ours(model, method, batch, dtype)
  program.run(3)
  with jax.profiler.trace(out):
    program.run(1)
  facts = gpu_tables.summary(gpu_tables.operations(out))
  return dataclasses.replace(program, facts=facts)


def training_gflops(model: str) -> float:
  """Of a training step, for each image."""
  import jax

  from str_jax import flops, models

  jax.config.update('jax_platforms', 'cpu')  # the device is the processes'
  size, classes, _ = our_step.MODELS[model]
  network = models.create(model, num_classes=classes)
  counts = flops.count(network, (size, size, 3))
  return 3 * 2 * sum(counts.values()) / 1e9


def refused(flag: str) -> str:
  """What XLA says of a flag that it does not take; '' if it takes it."""
  done = subprocess.run(
    [sys.executable, '-c', _PROBE],
    env=os.environ | MEMORY | {'XLA_FLAGS': processes.xla_flags(flag)},
    capture_output=True,
    text=True,
  )
  if not done.returncode:
    return ''
  said = [x for x in done.stderr.splitlines() if 'flag' in x.lower()]
  return (said or done.stderr.splitlines() or ['no reason given'])[-1][-160:]
