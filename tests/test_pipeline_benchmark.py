"""The benchmark of the input pipeline, at its smallest."""

import importlib.util
import itertools
import json

import cv2
import numpy as np
import pytest

from benchmarks import alternate, input_pipeline, pipeline_peers
from str_jax import data


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('photographs')
  input_pipeline.write(path, 16)
  return path


def test_images_are_like_imagenets():
  encoded = [input_pipeline.photograph(i) for i in range(8)]
  assert encoded[0] == input_pipeline.photograph(0)
  assert len(set(encoded)) == 8
  assert 70_000 < np.mean([len(x) for x in encoded]) < 130_000
  image = cv2.imdecode(np.frombuffer(encoded[0], np.uint8), cv2.IMREAD_COLOR)
  assert image.shape == (375, 500, 3)
  neighbours = np.corrcoef(image[:, 1:].ravel(), image[:, :-1].ravel())[0, 1]
  assert neighbours > 0.9  # as in photographs, not in noise


def test_set_and_folder_hold_the_same_bytes(folder):
  dataset = data.load('photographs', data_dir=folder, image_size=224)
  train = dataset.splits['train']
  stored = {train[i]['image'] for i in range(len(train))}
  files = (folder / 'images' / 'train').rglob('*.jpg')
  assert stored == {path.read_bytes() for path in files}
  assert len(stored) == 16


def test_ours_runs_and_is_written(folder, monkeypatch):
  monkeypatch.setattr(input_pipeline, '_may_start_workers', lambda: None)
  monkeypatch.setattr(input_pipeline, '_TIMED', 2)
  program = input_pipeline.ours(folder, 2, 0)
  program.run(1)
  program.run(1)
  result = alternate.Result(
    program.facts['seconds'], 0, 0, program.facts | {'unused': []}
  )
  assert all(1e-5 < s < 1 for s in result.seconds)
  slower = alternate.Result([2 * s for s in result.seconds], 0, 0, result.facts)
  rows = input_pipeline.records(
    {('str_jax', 0): result, ('torchvision', 0): slower},
    threads=1,
    machine='here',
    bytes_per_image=88_000,
  )
  assert rows[1]['ours_over'] == [2.0, 2.0, 2.0]
  json.dumps(rows)
  assert '2.00 (2.00-2.00)' in input_pipeline.table(rows)


@pytest.mark.parametrize('name', input_pipeline.PEERS)
def test_peers_give_the_same_kind_of_batches(folder, name):
  function, settings = input_pipeline.PEERS[name]
  if importlib.util.find_spec(function) is None:
    pytest.skip(f'needs {function}')
  batches = getattr(pipeline_peers, function)(folder, 4, 0, **settings)
  for images, labels in itertools.islice(batches, 3):
    assert len(images) == len(labels) == 4
    assert sorted(images.shape[1:]) == [3, 224, 224]
    kind = 'float32' if settings.get('normalise') else 'uint8'
    assert kind in str(images.dtype)
