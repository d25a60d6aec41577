"""Dependencies stand once, in requirements*.txt: this file reads them."""

import pathlib
import re

from setuptools import setup

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


train = read('requirements.txt')
setup(
  install_requires=[
    line for line in train if re.match(r'[\w-]+', line).group() in CORE
  ],
  extras_require={
    'train': train,
    'dev': read('requirements-dev.txt'),
    'cuda': ['jax[cuda13]'],
    'tpu': ['jax[tpu]'],
    'torch': ['torch>=2.13'],
    'benchmark': ['torch>=2.13'],  # benchmarks/train_step.py's peer
    'docs': ['mkdocs-material>=9.6', 'mkdocstrings[python]>=0.30'],
  },
)
