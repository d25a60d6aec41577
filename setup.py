"""Dependencies stand once, in requirements*.txt: this file reads them."""

import pathlib
import re
import runpy

from setuptools import Extension, setup

ROOT = pathlib.Path(__file__).parent
CORE = ('jax', 'flax', 'optax')


def read(name: str) -> list[str]:
  """The requirements of a file, and of the files that it includes."""
  requirements = []
  for line in (ROOT / name).read_text().splitlines():
    line = line.split('#')[0].strip()
    if line.startswith('-r '):
      requirements += read(line[3:].strip())
    elif line:
      requirements.append(line)
  return requirements


def extensions() -> list[Extension]:
  """The sparse kernels, where jax is at hand to build them against.

  So not in an isolated build; a package without them builds them when they are
  first used, see str_jax/inference/native.py.
  """
  try:
    import jax.ffi
  except ImportError:
    return []
  native = runpy.run_path(str(ROOT / 'str_jax/inference/native.py'))
  kernels = Extension(
    'str_jax.inference._kernels',
    ['str_jax/inference/kernels/kernels.cc'],
    depends=[str(p) for p in (ROOT / 'str_jax/inference/kernels').iterdir()],
    include_dirs=[jax.ffi.include_dir()],
    extra_compile_args=[*native['FLAGS'], *native['macros']()],
    optional=True,  # without a compiler, too, there is a package
  )
  return [kernels]


train = read('requirements.txt')
setup(
  ext_modules=extensions(),
  install_requires=[
    line for line in train if re.match(r'[\w-]+', line).group() in CORE
  ],
  extras_require={
    'train': train,
    'dev': read('requirements-dev.txt'),
    'cuda': ['jax[cuda13]'],
    'tpu': ['jax[tpu]'],
    'torch': ['torch>=2.13'],
    # From 0.14 on jax2onnx wants an older orbax-checkpoint than ours: beside
    # `train` pip takes 0.13.
    'onnx': ['jax2onnx>=0.13', 'onnx>=1.20', 'onnxruntime>=1.24'],
    'benchmark': ['torch>=2.13'],  # benchmarks/train_step.py's peer
    'docs': read('requirements-docs.txt'),
    'wandb': ['wandb>=0.22'],  # config.wandb
  },
)
