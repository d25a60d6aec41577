"""Images a second of the input pipeline, beside tf.data's and PyTorch's.

  pip install -e '.[train]' tensorflow-cpu torch torchvision
  python -m benchmarks.input_pipeline

Decode, RandomResizedCrop to 224 and flip of JPEGs of 500 x 375 pixels and
about 100 kB, ImageNet's common size, made here: random fields at seven scales
with noise, at quality 93. One run takes turns: first every program on one
core, all on the same, for images a second a core; then with workers on
--threads cores. What a program has buffered while it waited is taken before
its clock starts. Written to benchmarks/results/input_pipeline.json, and as
tables to input_pipeline.md.

TensorFlow and PyTorch may live in environments of their own, of this Python's
version: --tensorflow=DIR and --torch=DIR name their site-packages.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from benchmarks import alternate, pipeline_peers, record
from benchmarks.alternate import Contender, Program, Result

RESULTS = record.RESULTS / 'input_pipeline.json'
KEY = ('program', 'workers', 'threads', 'batch', 'machine')
HEIGHT, WIDTH, QUALITY = 375, 500, 93
CLASSES = 8
OURS = 'str_jax'
PEERS: dict[str, tuple[str, dict[str, Any]]] = {
  'tf.data bilinear': ('tensorflow', {}),
  'tf.data bicubic': ('tensorflow', {'method': 'bicubic'}),
  'tf.data antialias': ('tensorflow', {'antialias': True}),
  'tf.data bicubic float32': (
    'tensorflow',
    {'method': 'bicubic', 'normalise': True},
  ),
  'torchvision': ('torchvision', {}),
  'torchvision float32': ('torchvision', {'normalise': True}),
}
GROWING = ('tf.data bilinear', 'torchvision')  # measured with workers too
_TIMED = 16  # batches of a step
_BUFFERED = 8  # batches, a worker: no program here prepares more ahead


def photograph(index: int) -> bytes:
  """A JPEG that is as hard to decode as a photograph."""
  import cv2
  import numpy as np

  rng = np.random.default_rng(index)
  image = np.zeros((HEIGHT, WIDTH, 3), np.float32)
  for octave in range(7):
    cells = 4 * 2**octave
    field = rng.normal(0, 1, (cells * 3 // 4, cells, 3)).astype(np.float32)
    field = 0.8 * field[..., :1] + 0.4 * field  # mostly grey
    image += 1.7**-octave * cv2.resize(
      field, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC
    )
  image = 127 + 55 * image / image.std()
  image += rng.normal(0, 2 + 2.5 * (index % 8), (HEIGHT, WIDTH, 1))
  pixels = np.clip(image, 0, 255).astype(np.uint8)
  quality = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
  return cv2.imencode('.jpg', pixels, quality)[1].tobytes()


def write(folder: pathlib.Path, images: int) -> int:
  """Writes the images as a folder and as a TFDS set; returns their bytes."""
  import tensorflow_datasets as tfds

  photographs = [photograph(i) for i in range(images)]
  for i, encoded in enumerate(photographs):
    path = folder / 'images' / 'train' / str(i % CLASSES) / f'{i}.jpg'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded)

  class Photographs(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version('1.0.0')
    name = 'photographs'

    def _info(self) -> tfds.core.DatasetInfo:
      image = tfds.features.Image(encoding_format='jpeg')
      label = tfds.features.ClassLabel(num_classes=CLASSES)
      features = tfds.features.FeaturesDict({'image': image, 'label': label})
      return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, manager: Any) -> dict[str, Iterator[Any]]:
      return {'train': self._examples(images), 'test': self._examples(1)}

    def _generate_examples(self) -> Iterator[Any]:
      raise NotImplementedError  # abstract; each split has its own

    def _examples(self, count: int) -> Iterator[Any]:
      for i, encoded in enumerate(photographs[:count]):
        yield i, {'image': encoded, 'label': i % CLASSES}

  builder = Photographs(data_dir=folder, file_format='array_record')
  builder.download_and_prepare()
  return sum(map(len, photographs))


def ours(folder: pathlib.Path, batch: int, workers: int) -> Program:
  """The trainer's batches."""
  from str_jax import data

  _may_start_workers()
  dataset = data.load('photographs', data_dir=folder, image_size=224)
  batches = data.train_batches(dataset, batch, seed=0, num_workers=workers)
  return timed(batches, batch, _BUFFERED * max(1, workers))


def peer(
  folder: pathlib.Path, batch: int, workers: int, name: str, path: str | None
) -> Program:
  """Another library's batches; the library may be in a folder of its own."""
  if path:
    sys.path.insert(0, path)
  _may_start_workers()
  function, settings = PEERS[name]
  build = getattr(pipeline_peers, function)
  batches = build(folder, batch, workers, **settings)
  return timed(batches, batch, _BUFFERED * max(1, workers))


def timed(batches: Iterator[Any], batch: int, buffered: int) -> Program:
  """A program whose step is 16 batches, timed once it has to wait for them."""
  facts: dict[str, list[float]] = {'seconds': [], 'cpu_seconds': []}

  def run(steps: int) -> None:
    for _ in range(buffered):
      next(batches)
    images = steps * _TIMED * batch
    began, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps * _TIMED):
      next(batches)
    seconds = time.perf_counter() - began
    facts['seconds'].append(seconds / images)
    facts['cpu_seconds'].append((time.process_time() - cpu) / images)
    # Until its buffers are full it would take the next one's time.
    time.sleep(seconds * buffered * batch / images)

  return Program(run, facts)


def _may_start_workers() -> None:
  """Lets this process, a daemon, start others; these watch for its end."""
  multiprocessing.current_process()._config['daemon'] = False


def measure(
  folder: pathlib.Path,
  batch: int,
  programs: list[tuple[str, int]],
  paths: dict[str, str | None],
  **settings: Any,
) -> dict[tuple[str, int], Result]:
  """Takes turns; the seconds are those of an image.

  Args:
    folder: what ``write`` wrote into.
    batch: images.
    programs: names, each with its number of workers.
    paths: by library, where else its packages are.
    **settings: of ``alternate.measure``.
  """
  contenders = []
  for name, workers in programs:
    same = {'folder': folder, 'batch': batch, 'workers': workers}
    label = f'{name}, {workers} workers'
    if name == OURS:
      contenders.append(Contender(label, ours, same))
      continue
    its = {'name': name, 'path': paths.get(PEERS[name][0])}
    contenders.append(Contender(label, peer, same | its))
  results = alternate.measure(contenders, **settings)
  turns = settings['alternations']
  return {
    program: dataclasses.replace(r, seconds=r.facts['seconds'][-turns:])
    for program, r in zip(programs, results.values(), strict=True)
  }


def records(
  results: dict[tuple[str, int], Result], **common: Any
) -> list[dict[str, Any]]:
  """A record for each program; ratios are our speed over its, in a turn."""
  rows = []
  base = results[OURS, 0]
  for (name, workers), result in results.items():
    cpu = statistics.median(result.facts['cpu_seconds'][-len(result.seconds) :])
    row = {'program': name, 'workers': workers}
    row |= common | {
      'images_per_second': [round(1 / s, 1) for s in result.seconds],
      'cpu_us_per_image': round(1e6 * cpu),  # of the process, not its workers
    }
    if result is not base:
      ratio = alternate.ratios(base, result)
      row['ours_over'] = [round(x, 3) for x in ratio]
    rows.append(row)
  return rows


def table(rows: list[dict[str, Any]]) -> str:
  """The records for people: one core, then more."""
  text = []
  header = ['program', 'workers', 'images/s', 'ours without workers over it']
  header += ['CPU time an image']
  for setting in sorted({(r['threads'], r['machine']) for r in rows}):
    chosen = [r for r in rows if (r['threads'], r['machine']) == setting]
    cells = [
      [
        r['program'],
        r['workers'],
        f'{statistics.median(r["images_per_second"]):.0f}',
        '{:.2f} ({:.2f}-{:.2f})'.format(*r['ours_over'])
        if 'ours_over' in r
        else '',
        '' if r['workers'] else f'{r["cpu_us_per_image"]} us',
      ]
      for r in chosen
    ]
    text.append(
      f'## {setting[0]} of {setting[1]}, JPEGs of '
      f'{chosen[0]["bytes_per_image"] / 1000:.0f} kB\n\n'
      + record.markdown(header, cells)
    )
  return '\n'.join(text)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--peers', default=','.join(PEERS), help='names, or none')
  parser.add_argument('--tensorflow', help='folder of its packages')
  parser.add_argument('--torch', help='folder of its packages')
  parser.add_argument('--images', type=int, default=512)
  parser.add_argument('--batch', type=int, default=32)
  alternate.add_arguments(parser, seconds=0.0)
  args = parser.parse_args()
  peers = [x for x in args.peers.split(',') if x]
  paths = {'tensorflow': args.tensorflow, 'torchvision': args.torch}
  growth = [(OURS, n) for n in range(args.threads + 1)]
  growth += [(name, args.threads) for name in peers if name in GROWING]
  origin = record.origin(('grain', 'opencv-python-headless', 'numpy'))
  for path in filter(None, paths.values()):  # of this machine
    origin['command'] = origin['command'].replace(path, 'DIR')
  rows = []
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary)
    size = write(folder, args.images)
    for threads, programs in (
      (1, [(OURS, 0), *((name, 0) for name in peers)]),
      (args.threads, growth),
    ):
      results = measure(
        folder,
        args.batch,
        programs,
        paths,
        alternations=args.alternations,
        seconds=args.seconds,
        threads=threads,
      )
      rows += records(
        results,
        batch=args.batch,
        threads=threads,
        bytes_per_image=round(size / args.images),
        **origin,
      )
  print(table(rows), flush=True)
  if args.write:
    record.keep(RESULTS, rows, KEY, table)


if __name__ == '__main__':
  main()
