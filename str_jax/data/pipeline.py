"""Batches in an order that depends on the seed and the step alone.

The batches are the same with any number of worker processes, interleave to
the same ones with any number of trainer processes, and start anywhere: a
resumed run needs no saved iterator, only its step.
"""

import contextlib
import functools
import gc
import zlib
from collections.abc import Callable, Generator
from typing import Any

import cv2
import grain
import numpy as np
from absl import flags

from str_jax.data import parallel
from str_jax.data.augment import Transforms
from str_jax.data.dataset import Dataset
from str_jax.data.sources import Decoded, Replaced, Skip, Weighted

Batch = dict[str, np.ndarray]
Batches = Generator[Batch, None, None]

_DEATHS = 3  # of workers at one batch, after which the run ends


def train_batches(
  dataset: Dataset,
  batch_size: int,
  *,
  seed: int,
  start_step: int = 0,
  process_index: int = 0,
  process_count: int = 1,
  num_workers: int = 0,
  skip: Skip | None = None,
) -> Batches:
  """Endless batches of the training split, shuffled anew every epoch.

  Args:
    dataset: what `load` returned.
    batch_size: examples a step, over all processes.
    seed: of the order and of the augmentation.
    start_step: the step of the first batch.
    process_index: this trainer process.
    process_count: how many there are; each gets every process_count-th
      example of the stream.
    num_workers: processes that prepare batches; 0: a thread does. One that
      is killed is started anew.
    skip: how many corrupt records may be skipped, the next readable one in
      the place of each; None: the first is an error.

  Returns:
    Generator of {'image': uint8 or float32 [batch_size / process_count, H, W,
    C], 'label': int32 [batch_size / process_count]}.

  Raises:
    ValueError: if the batch does not divide among the processes, or a number
      is out of range.
  """
  share = _share(batch_size, process_index, process_count)
  if seed < 0 or start_step < 0:
    raise ValueError(
      f'seed and start_step are at least 0, but are {seed} and {start_step}'
    )
  decoded = _decoded(dataset, 'train')
  stream = grain.MapDataset.source(
    decoded if skip is None else Replaced(decoded, skip)
  )
  stream = stream.shuffle(seed=_op_seed(seed, 'shuffle')).repeat()
  stream = _transform(stream, dataset.train_transforms, seed)
  # Sliced after the transforms: their randomness goes by the global index.
  stream = stream[process_index::process_count]
  stream = stream.batch(share, drop_remainder=True)[start_step:]
  return _iterate(stream, num_workers)


def eval_batches(
  dataset: Dataset,
  split: str,
  batch_size: int,
  *,
  process_index: int = 0,
  process_count: int = 1,
  num_workers: int = 0,
  skip: Skip | None = None,
) -> Batches:
  """One pass over a split, every batch full, every example counted once.

  The last batch is filled up with examples of weight 0, so that all batches
  have one shape and all processes see the same number of them.

  Args:
    dataset: what `load` returned.
    split: 'train', 'validation' or 'test'.
    batch_size: examples a step, over all processes.
    process_index: this process.
    process_count: how many there are.
    num_workers: processes that prepare batches; 0: a thread does. One that
      is killed is started anew.
    skip: how many corrupt records may be skipped, each with weight 0; None:
      the first is an error.

  Returns:
    Generator of {'image', 'label'} as `train_batches` has them and 'weight':
    float32 [batch_size / process_count], 1 or 0. The weights of all batches
    of all processes sum to the number of readable examples.

  Raises:
    ValueError: if the set has no such split, or the batch does not divide
      among the processes.
  """
  share = _share(batch_size, process_index, process_count)
  decoded = _decoded(dataset, split)
  examples = len(decoded)
  stream = grain.MapDataset.source(Weighted(decoded, skip, dataset.image_shape))
  padded = -(-examples // batch_size) * batch_size
  stream = _transform(stream.repeat(), dataset.eval_transforms, seed=0)
  stream = stream.map_with_index(functools.partial(_weigh, examples))
  stream = stream[:padded][process_index::process_count].batch(share)
  return _iterate(stream, num_workers)


def _share(batch_size: int, process_index: int, process_count: int) -> int:
  """The examples of a batch that are this process's."""
  if not 0 <= process_index < process_count:
    raise ValueError(
      f'process_index={process_index} is not one of {process_count} processes: '
      'they are counted from 0'
    )
  if batch_size < 1 or batch_size % process_count:
    raise ValueError(
      f'a batch of {batch_size} does not divide among {process_count} '
      'processes: choose a multiple'
    )
  return batch_size // process_count


def _decoded(dataset: Dataset, split: str) -> Decoded:
  source = dataset.splits.get(split)
  if source is None:
    found = ', '.join(k for k, v in dataset.splits.items() if v is not None)
    raise ValueError(
      f'{dataset.name} has no {split} split, only {found}: to hold images '
      'out of the training split, load it with validation=NUMBER'
    )
  return Decoded(source, split, dataset.image_shape[-1])


def _op_seed(seed: int, name: str) -> int:
  """A seed for one operation: adding another leaves this one as it was."""
  entropy = (seed, zlib.crc32(name.encode()))
  return int(np.random.SeedSequence(entropy).generate_state(1)[0])


def _transform(
  stream: grain.MapDataset, transforms: Transforms, seed: int
) -> grain.MapDataset:
  for transform in transforms:
    if isinstance(transform, grain.transforms.RandomMap):
      op_seed = _op_seed(seed, type(transform).__name__)
      stream = stream.random_map(transform, seed=op_seed)
    else:
      stream = stream.map(transform)
  return stream


def _weigh(examples: int, index: int, record: dict[str, Any]) -> dict[str, Any]:
  return {**record, 'weight': record['weight'] * np.float32(index < examples)}


def _iterate(stream: grain.MapDataset, num_workers: int) -> Batches:
  if not num_workers:
    cv2.setNumThreads(1)
    return _closed(iter(_prefetched(stream)))
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # Grain reads its flags to start a worker
  options = grain.MultiprocessingOptions(num_workers, per_worker_buffer_size=2)

  def start(batch: int) -> Any:
    return iter(
      _prefetched(stream[batch:]).mp_prefetch(
        options, worker_init_fn=_start_worker
      )
    )

  return _restarted(start)


def _closed(batches: Any) -> Batches:
  """The batches of an iterator that is closed with this one."""
  with contextlib.closing(batches):
    yield from batches


def _prefetched(stream: grain.MapDataset) -> grain.IterDataset:
  # One thread is enough to prepare while the device computes; the order of
  # the batches is the same with any number. The buffer counts batches.
  options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
  return stream.to_iter_dataset(options)


def _restarted(start: Callable[[int], Any]) -> Batches:
  """The batches of `start(0)`; after a worker's death, of `start` from there.

  Args:
    start: starts workers that make the batches from one on.

  Yields:
    The batches.

  Raises:
    OSError: if three workers died over the same batch.
  """
  batches, batch, done, deaths = start(0), None, 0, 0
  try:
    while True:
      try:
        batch = next(batches)
      except StopIteration:
        return
      except RuntimeError as error:
        if 'Worker process was terminated' not in str(error):  # Grain's words
          raise
        deaths += 1
        if deaths == _DEATHS:
          raise OSError(
            f'worker processes of the input pipeline died {deaths} times over '
            'one batch, killed or out of memory: lower num_workers or free '
            'memory; the same command goes on from the last checkpoint'
          ) from error
        print('note: a worker of the input pipeline died; started anew')
        batches.close()
        batches = start(done)
      else:
        done, deaths = done + 1, 0
        yield batch
  finally:
    batches.close()
    # What the workers sent lies in cycles, and in shared memory until these go.
    del batch, batches
    gc.collect()


def _start_worker(worker_index: int, worker_count: int) -> None:
  del worker_index, worker_count
  cv2.setNumThreads(1)
  # By then it waits for room in a queue: to end in the middle of taking shared
  # memory would leave that behind.
  parallel.die_with_parent(after_seconds=2.0)
