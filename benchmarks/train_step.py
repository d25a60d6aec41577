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
import statistics
from typing import Any

from benchmarks import alternate, record
from benchmarks.alternate import Contender, Program, Result
from benchmarks.our_step import MODELS, ours
from str_jax.training import cpu

RESULTS = record.RESULTS / 'train_step.json'
KEY = ('model', 'method', 'program', 'batch', 'dtype', 'threads', 'device')
NETWORKS = ('resnet50', 'resnet18', 'mobilenet_v1', 'resnet20')
PEERS: dict[str, dict[str, bool]] = {
  'default': {},
  'channels_last': {'channels_last': True},
  'compiled': {'channels_last': True, 'compiled': True},
  'huge_pages': {},  # the default, in memory that main.py gives ours
}
PLAIN = 'xla'  # our step again, with XLA's own convolutions
PEER_METHODS = ('dense', 'str', 'st3')


def peers(
  model: str, method: str, batch: int, dtype: str, peer: str
) -> Program:
  """PyTorch's step."""
  import torch

  from benchmarks import torch_peer

  torch.set_num_threads(cpu.cores())
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
  alternate.add_arguments(parser, seconds=2.0)
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
      record.keep(RESULTS, rows, KEY, table)


if __name__ == '__main__':
  main()
