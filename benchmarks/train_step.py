"""The speed of a training step: ours beside plain PyTorch's, method by method.

  pip install -e '.[train,benchmark]'
  python -m benchmarks.train_step --models=resnet20,resnet50 --methods=dense,str

For each network one run alternates our trainer's compiled step, with each
method, and PyTorch's (benchmarks/torch_peer.py) on the same batch size,
precision and number of threads, each in a process of its own; see
benchmarks/alternate.py. Written to benchmarks/results/train_step.json, and as
tables to train_step.md: images/s, our speed over each peer's and over our own
dense step, median and range over the turns, and memory.

--threads limits a CPU's cores. --methods takes every method of ours; a peer
has dense, str and st3. The peer xla is our own step with XLA's convolutions;
the JSON has the compile_seconds of both. On a GPU the same command takes
bfloat16 (PyTorch: autocast) with --dtype=bfloat16; the peers are then best
named by --peers=channels_last,compiled.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

from benchmarks import alternate, record
from benchmarks.alternate import Contender, Program, Result
from str_jax.training import cpu

RESULTS = record.RESULTS / 'train_step.json'
KEY = ('model', 'method', 'program', 'batch', 'dtype', 'threads', 'device')
# Image size, classes, images a step on a CPU.
MODELS = {
  'resnet50': (224, 1000, 16),
  'resnet18': (224, 1000, 16),
  'mobilenet_v1': (224, 1000, 16),
  'resnet20': (32, 10, 128),
  'convnet': (8, 10, 64),  # small: for the tests, and no peer has it
}
NETWORKS = tuple(MODELS)[:-1]
# As in the final part of a run: the sparsity no longer rises.
PRUNED = {
  'method.sparsity': 0.9,
  'method.start_steps': 0,
  'method.end_steps': 1,
}
METHODS: dict[str, dict[str, Any]] = {
  'dense': {},
  'str': {
    'method.init_value': -3200.0,
    'optimizer.norm_decay': 2.251757813e-5,
  },
  'st3': PRUNED,
  'st3_sigma': PRUNED,
  'gmp': PRUNED,
  'dnw': {'method.sparsity': 0.9},
  'feather': PRUNED,
}
PEERS: dict[str, dict[str, bool]] = {
  'default': {},
  'channels_last': {'channels_last': True},
  'compiled': {'channels_last': True, 'compiled': True},
  'huge_pages': {},  # the default, in memory that main.py gives ours
}
PLAIN = 'xla'  # our step again, with XLA's own convolutions
PEER_METHODS = ('dense', 'str', 'st3')


def prepare(
  model: str,
  method: str,
  batch: int,
  dtype: str = 'float32',
  lowering: str = 'auto',
) -> tuple[Any, Any, dict[str, Any]]:
  """The trainer's stage for generated images; nothing is compiled yet.

  Args:
    model: a key of ``MODELS``.
    method: a key of ``METHODS``.
    batch: images a step.
    dtype: of the computation.
    lowering: as the config's model.lowering.

  Returns:
    The stage, the placement, and the shapes of a batch, placed.
  """
  import jax
  import numpy as np

  from str_jax import data
  from str_jax.training import build, flags, plan, stage

  size, classes, _ = MODELS[model]
  config, _ = flags.load_config(
    str(record.ROOT / 'configs' / 'fake.py'), [f'--config.batch_size={batch}']
  )
  fields = {'model.name': model, 'model.dtype': dtype, 'method.name': method}
  fields |= {'model.classifier_bias': False, 'model.lowering': lowering}
  fields |= {'total_steps': 100_000}
  config.update_from_flattened_dict(fields | METHODS[method])
  dataset = data.load(
    'fake', image_size=size, fake_classes=classes, fake_examples=batch
  )
  inputs = build.Inputs(dataset.image_shape, classes)
  course = plan.create(config, batch, inputs)
  placement = stage.place()
  made = stage.create(config, course, course.phases[0], dataset, placement)
  like = lambda shape, dtype: jax.ShapeDtypeStruct(
    shape, dtype, sharding=placement.batch
  )
  shapes = {
    'image': like((batch, *dataset.image_shape), np.uint8),
    'label': like((batch,), np.int32),
  }
  return made, placement, shapes


def ours(
  model: str, method: str, batch: int, dtype: str, lowering: str = 'auto'
) -> Program:
  """The trainer's step, compiled here and not taken from a cache."""
  import jax
  import numpy as np

  made, placement, shapes = prepare(model, method, batch, dtype, lowering)
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, shapes['image'].shape, np.uint8)
  labels = rng.integers(0, MODELS[model][1], batch, np.int32)
  batch_of = placement.put({'image': images, 'label': labels})
  state = [made.init(0)]
  began = time.perf_counter()
  step = made.train_step.lower(state[0], batch_of).compile()
  seconds = time.perf_counter() - began
  cpu.release_memory()  # as the trainer does

  def run(steps: int) -> None:
    for _ in range(steps):
      state[0] = step(state[0], batch_of)
    jax.block_until_ready(state[0])
    if int(state[0].first_nonfinite) >= 0:
      raise FloatingPointError(f'{model} {method}: loss is not finite')

  memory = step.memory_analysis()
  facts = {
    'argument_bytes': memory.argument_size_in_bytes,
    'temporary_bytes': memory.temp_size_in_bytes,
    'compile_seconds': round(seconds, 2),
  }
  device = jax.devices()[0]
  if device.platform == 'cpu':
    return Program(run, facts)
  peak = lambda: device.memory_stats()['peak_bytes_in_use']
  return Program(run, facts, peak)


def peers(
  model: str, method: str, batch: int, dtype: str, peer: str
) -> Program:
  """PyTorch's step."""
  import torch

  from benchmarks import torch_peer

  torch.set_num_threads(len(os.sched_getaffinity(0)))
  cuda = torch.cuda.is_available()
  device = 'cuda' if cuda else 'cpu'
  size, classes, _ = MODELS[model]
  torch.manual_seed(0)
  trainer = torch_peer.Trainer(
    model,
    method,
    torch.randn(batch, 3, size, size, device=device),
    torch.randint(classes, (batch,), device=device),
    classes,
    autocast=dtype == 'bfloat16',
    **PEERS[peer],
  )

  def run(steps: int) -> None:
    for _ in range(steps):
      loss = trainer.step()
    if not torch.isfinite(loss):  # and waits for the device
      raise FloatingPointError(f'PyTorch {model} {method}: not finite')

  if not cuda:
    return Program(run)
  torch.backends.cudnn.benchmark = True
  return Program(run, peak_bytes=torch.cuda.max_memory_allocated)


def contenders(
  model: str, methods: list[str], peer_names: list[str], batch: int, dtype: str
) -> list[Contender]:
  """All that is measured on a network, in one run."""
  same = {'model': model, 'batch': batch, 'dtype': dtype}
  pages = cpu.huge_pages()  # what main.py starts anew with
  return [
    *(
      Contender(f'{m} str_jax', ours, same | {'method': m}, pages)
      for m in methods
    ),
    *(
      Contender(
        f'{m} {PLAIN}', ours, same | {'method': m, 'lowering': PLAIN}, pages
      )
      for m in methods
      if PLAIN in peer_names
    ),
    *(
      Contender(
        f'{m} {p}',
        peers,
        same | {'method': m, 'peer': p},
        pages if p == 'huge_pages' else {},
      )
      for m in methods
      for p in peer_names
      if m in PEER_METHODS and p != PLAIN
    ),
  ]


def records(
  model: str, batch: int, results: dict[str, Result], **common: Any
) -> list[dict[str, Any]]:
  """A record for each program that was measured."""
  rows = []
  for name, result in results.items():
    method, program = name.split()
    row = {'model': model, 'method': method, 'program': program, 'batch': batch}
    row |= common | {
      'images_per_second': [round(batch / s, 3) for s in result.seconds],
      'first_seconds': round(result.first_seconds, 2),
      'peak_bytes': result.peak_bytes,
      **result.facts,
    }
    against = {'dense': f'dense {program}'}
    if program == 'str_jax':
      against |= {p: f'{method} {p}' for p in (*PEERS, PLAIN)}
    for other, key in against.items():
      if key in results and key != name:
        row[f'over_{other}'] = [
          round(x, 4) for x in alternate.ratios(result, results[key])
        ]
    rows.append(row)
  return rows


def table(rows: list[dict[str, Any]]) -> str:
  """The records for people: a table for each machine and setting."""
  text = []
  common = ('device', 'threads', 'dtype')
  ratio = lambda x: f'{x[0]:.2f} ({x[1]:.2f}-{x[2]:.2f})' if x else ''
  for setting in sorted({tuple(str(r[k]) for k in common) for r in rows}):
    chosen = [r for r in rows if tuple(str(r[k]) for k in common) == setting]
    others = [
      other
      for other in (*PEERS, PLAIN, 'dense')
      if any(f'over_{other}' in r for r in chosen)
    ]
    header = ['model', 'method', 'program', 'images/s']
    header += [f'speed over {other}' for other in others]
    header += ['peak memory', 'first step after']
    cells = [
      [
        f'{r["model"]}, batch {r["batch"]}',
        r['method'],
        r['program'],
        f'{statistics.median(r["images_per_second"]):.1f}',
        *(ratio(r.get(f'over_{other}')) for other in others),
        f'{r["peak_bytes"] / 2**20:.0f} MiB',
        f'{r["first_seconds"]:.1f} s',
      ]
      for r in chosen
    ]
    device, threads, dtype = setting
    text.append(f'## {device}, {threads} threads, {dtype}\n\n')
    text.append(record.markdown(header, cells) + '\n')
  return ''.join(text)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--models', default=','.join(NETWORKS))
  parser.add_argument('--methods', default='dense,str,st3')
  parser.add_argument(
    '--peers', default='default', help=f'of {", ".join(PEERS)}, {PLAIN}'
  )
  parser.add_argument('--batch', type=int, help='images a step')
  parser.add_argument('--dtype', default='float32')
  parser.add_argument('--threads', type=int, default=os.cpu_count())
  parser.add_argument('--alternations', type=int, default=5)
  parser.add_argument('--seconds', type=float, default=2.0, help='of a turn')
  parser.add_argument('--no-write', dest='write', action='store_false')
  args = parser.parse_args()
  split = lambda text: [x for x in text.split(',') if x]
  for model in split(args.models):
    batch = args.batch or MODELS[model][2]
    results = alternate.measure(
      contenders(
        model, split(args.methods), split(args.peers), batch, args.dtype
      ),
      alternations=args.alternations,
      seconds=args.seconds,
      threads=args.threads,
    )
    rows = records(
      model,
      batch,
      results,
      dtype=args.dtype,
      threads=args.threads,
      device=record.device(),
      **record.origin(),
    )
    print(table(rows), flush=True)
    if args.write:
      everything = record.add(RESULTS, rows, KEY)
      RESULTS.with_suffix('.md').write_text(table(everything))


if __name__ == '__main__':
  main()
