"""Log-mel features of speech, and TFDS's speech_commands as a source of them.

NumPy alone: no TensorFlow, which TFDS's own reader of audio would load.
"""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

from str_jax.data.sources import Record

SAMPLE_RATE = 16_000
CLIP = 16_000  # samples: one second
STEPS, FEATURES = 99, 32

_ANEW = 'prepare the set anew'

_WINDOW, _HOP, _FFT = 400, 160, 512  # 25 ms every 10 ms
_PREEMPHASIS = 0.97
_FLOOR = 1e-10


def log_mel(audio: np.ndarray) -> np.ndarray:
  r"""Log energies of one second of speech in 32 mel-spaced bands.

  .. math:: f_{tb} = \log\Big(10^{-10} + \sum_k M_{bk}\,
     |\mathrm{FFT}_{512}(h \odot x_t)|_k^2 / 512\Big)

  x_t are 400 samples (25 ms) from sample 160 t (10 ms) on of the clip after
  the filter x(i) - 0.97 x(i - 1), h a Hamming window, and M triangles between
  points evenly spaced in mel from 0 to 8 kHz, on whole FFT bins. These are the
  definitions of python_speech_features 0.6 (`fbank` with winfunc hamming), and
  with the constants those of FastGRNN's authors (microsoft/EdgeML,
  process_google.py), who also put the zeros before a clip that is too short.
  Samples keep the scale of int16.

  Args:
    audio: int16 [n] at 16 kHz; of more than a second, the first one counts.

  Returns:
    float32 [99, 32]: time, band.

  Example:
    >>> tone = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    >>> features = log_mel((10_000 * tone).astype(np.int16))
    >>> features.shape, int(features[50].argmax())
    ((99, 32), 11)
  """
  clip = np.zeros(CLIP)
  audio = audio[:CLIP]
  clip[CLIP - len(audio) :] = audio
  clip[1:] -= _PREEMPHASIS * clip[:-1]
  padded = np.pad(clip, (0, (STEPS - 1) * _HOP + _WINDOW - CLIP))
  frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP]
  spectrum = np.fft.rfft(frames * np.hamming(_WINDOW), _FFT)
  power = (spectrum.real**2 + spectrum.imag**2) / _FFT
  energy = power @ _filters().T
  # python_speech_features puts float64's epsilon where there is no energy.
  energy[energy == 0] = np.finfo(float).eps
  return np.log(energy + _FLOOR).astype(np.float32)


@functools.cache
def _filters() -> np.ndarray:
  """The triangles [band, FFT bin]."""
  top = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
  hertz = 700 * (10 ** (np.linspace(0, top, FEATURES + 2) / 2595) - 1)
  points = np.floor((_FFT + 1) * hertz / SAMPLE_RATE)
  bins = np.arange(_FFT // 2 + 1)
  left, centre, right = (points[i : FEATURES + i, np.newaxis] for i in range(3))
  rising = (bins - left) / np.maximum(centre - left, 1)
  falling = (right - bins) / np.maximum(right - centre, 1)
  inside = np.where(bins < centre, rising, falling)
  return np.where((bins >= left) & (bins < right), inside, 0.0)


class Commands:
  """Features [99, 1, 32] and labels of a split of TFDS's speech_commands.

  The records are read as TFDS wrote them: its own reader would need
  TensorFlow for the audio.

  Args:
    folder: the prepared set, `.../speech_commands/0.0.3`.
    split: 'train', 'validation' or 'test'.

  Raises:
    FileNotFoundError: a file of the split is missing.
    ValueError: a file, or later a record, is damaged.
  """

  def __init__(self, folder: Path, split: str) -> None:
    from array_record.python import array_record_data_source

    files = _files(folder, split)
    self._where = f'{split} of {folder}'
    for file in files:  # one at a time, to name the one that is damaged
      try:
        len(array_record_data_source.ArrayRecordDataSource([str(file)]))
      except RuntimeError as error:
        raise ValueError(
          f'{file} cannot be read ({error or "damaged"}): {_ANEW}'
        ) from error
    self._records = array_record_data_source.ArrayRecordDataSource(
      [str(file) for file in files]
    )

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> Record:
    from google.protobuf import message
    from tensorflow_datasets.proto import tf_example_pb2

    try:
      example = tf_example_pb2.Example.FromString(self._records[index])
    except (message.DecodeError, RuntimeError) as error:
      raise ValueError(
        f'record {index} of {self._where} cannot be read ({error}): {_ANEW}'
      ) from error
    fields = example.features.feature
    audio = np.array(fields['audio'].int64_list.value, np.int16)
    labels = fields['label'].int64_list.value
    if not len(audio) or len(labels) != 1:
      raise ValueError(
        f'record {index} of {self._where} has {len(audio)} samples of audio '
        f'and {len(labels)} labels, where some and 1 were wanted: {_ANEW}'
      )
    image = log_mel(audio)[:, np.newaxis]
    return {'image': image, 'label': labels[0]}


def classes(folder: Path) -> int:
  """The number of classes of a prepared set, from its features.json."""
  file = folder / 'features.json'
  keys = ('featuresDict', 'features', 'label', 'classLabel', 'numClasses')
  return int(entry(file, *keys))


def entry(file: Path, *keys: str) -> Any:
  """What a JSON file of TFDS's holds under keys, one inside the other.

  Raises:
    FileNotFoundError: if the file is missing.
    ValueError: if it is no JSON, or does not hold that.
  """
  if not file.is_file():
    raise FileNotFoundError(f'{file} is missing: {_ANEW}')
  try:
    value = json.loads(file.read_text())
    for key in keys:
      value = value[key]
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f'{file} does not hold {" > ".join(keys)} ({error!r}): {_ANEW}'
    ) from error
  return value


def _files(folder: Path, split: str) -> list[Path]:
  """The files of a split, all that there should be."""
  stem = f'speech_commands-{split}.array_record'
  found = sorted(folder.glob(f'{stem}-?????-of-?????'))
  if not found:
    raise FileNotFoundError(
      f'{split} of speech_commands has no files in {folder}: {_ANEW}'
    )
  total = found[-1].name.rpartition('-')[2]
  wanted = [folder / f'{stem}-{i:05d}-of-{total}' for i in range(int(total))]
  missing = sorted({*wanted} - {*found})
  if missing:
    raise FileNotFoundError(
      f'{split} of speech_commands has {len(wanted) - len(missing)} of '
      f'{len(wanted)} files: {missing[0]} is missing: {_ANEW}'
    )
  return wanted
