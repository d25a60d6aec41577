"""Input pipelines of ImageNet trainers, as they are commonly written.

Each builds an endless iterator of batches from the files that
benchmarks/input_pipeline.py has written. Libraries are imported where they
are used: a peer runs where the others' are not installed.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator
from typing import Any

SIZE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def tensorflow(
  folder: pathlib.Path,
  batch: int,
  workers: int,
  *,
  method: str = 'bilinear',
  antialias: bool = False,
  normalise: bool = False,
) -> Iterator[Any]:
  """tf.data as in Flax's ImageNet example and in big_vision.

  `decode_and_crop_jpeg` of a `sample_distorted_bounding_box`, then resize and
  flip. TFRecords, made here of the folder's files.

  Args:
    folder: with an image folder `images/train`.
    batch: images.
    workers: threads of its private pool; 0 is one.
    method: of tf.image.resize: big_vision's is bilinear, Flax's bicubic.
    antialias: likewise.
    normalise: to float32 on the host, as in Flax's example; or stays uint8.
  """
  os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
  import tensorflow as tf

  threads = max(1, workers)
  records = folder / f'train-{os.getpid()}.tfrecord'
  with tf.io.TFRecordWriter(str(records)) as writer:
    for path in sorted((folder / 'images' / 'train').rglob('*.jpg')):
      image = tf.train.BytesList(value=[path.read_bytes()])
      label = tf.train.Int64List(value=[int(path.parent.name)])
      feature = {
        'image': tf.train.Feature(bytes_list=image),
        'label': tf.train.Feature(int64_list=label),
      }
      example = tf.train.Example(features=tf.train.Features(feature=feature))
      writer.write(example.SerializeToString())

  def prepare(serialized: Any) -> tuple[Any, Any]:
    record = tf.io.parse_single_example(
      serialized,
      {
        'image': tf.io.FixedLenFeature((), tf.string),
        'label': tf.io.FixedLenFeature((), tf.int64),
      },
    )
    begin, size, _ = tf.image.sample_distorted_bounding_box(
      tf.io.extract_jpeg_shape(record['image']),
      tf.zeros([0, 0, 4], tf.float32),
      area_range=(0.08, 1),
      min_object_covered=0,
      aspect_ratio_range=(3 / 4, 4 / 3),
      max_attempts=10,
      use_image_if_no_bounding_boxes=True,
    )
    window = tf.concat([begin[:2], size[:2]], 0)
    image = tf.io.decode_and_crop_jpeg(record['image'], window, channels=3)
    image = tf.image.resize(
      image, (SIZE, SIZE), method=method, antialias=antialias
    )
    image = tf.image.random_flip_left_right(image)
    if normalise:
      image = (image - 255 * tf.constant(MEAN)) / (255 * tf.constant(STD))
    else:
      image = tf.cast(tf.clip_by_value(image, 0, 255), tf.uint8)
    return image, record['label']

  options = tf.data.Options()
  options.threading.private_threadpool_size = threads
  dataset = tf.data.TFRecordDataset(str(records)).repeat().shuffle(256)
  dataset = dataset.map(prepare, num_parallel_calls=threads)
  dataset = dataset.batch(batch, drop_remainder=True).prefetch(2)
  return dataset.with_options(options).as_numpy_iterator()


def torchvision(
  folder: pathlib.Path, batch: int, workers: int, *, normalise: bool = False
) -> Iterator[Any]:
  """PyTorch's ImageFolder and transforms on Pillow images.

  Args:
    folder: with an image folder `images/train`.
    batch: images.
    workers: processes of the DataLoader.
    normalise: ToTensor and Normalize, to float32; or stays uint8.
  """
  import torch

  torch.set_num_threads(1)
  _declare_operations(torch)
  from torchvision import datasets, transforms

  last = [transforms.PILToTensor()]
  if normalise:
    last = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
  steps = [
    transforms.RandomResizedCrop(SIZE),
    transforms.RandomHorizontalFlip(),
  ]
  images = datasets.ImageFolder(
    str(folder / 'images' / 'train'), transforms.Compose([*steps, *last])
  )
  loader = torch.utils.data.DataLoader(
    images,
    batch,
    shuffle=True,
    drop_last=True,
    num_workers=workers,
    persistent_workers=bool(workers),
    multiprocessing_context='fork' if workers else None,
  )
  while True:
    yield from loader


def _declare_operations(torch: Any) -> None:
  """Lets torchvision be imported beside a PyTorch it was not built for.

  Built for CUDA beside a PyTorch without, it does not load its operations on
  boxes, and then misses them; no transform of a Pillow image needs them.
  """
  if _kept or torch.version.cuda is not None:
    return
  library = torch.library.Library('torchvision', 'FRAGMENT')
  for name in ('nms', 'qnms'):
    library.define(
      f'{name}(Tensor dets, Tensor scores, float threshold) -> Tensor'
    )
  _kept.append(library)  # its end would undefine them


_kept: list[Any] = []
