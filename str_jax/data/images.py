"""Encoded images as records hold them, checked by their headers alone.

Pillow is told to read two formats, and decodes only what must be encoded
anew, after its size is known: a small file may claim to be a huge image.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator

from PIL import Image

from str_jax.data.sources import MAX_PIXELS

MAX_BYTES = 1 << 28  # of an encoded image


def standard(data: bytes, name: str, keep_png: bool) -> bytes:
  """The image as a JPEG, or a PNG, that every decoder reads as grey or RGB.

  CMYK becomes RGB, at the best quality and with full colour; all else stays
  byte for byte.

  Args:
    data: an encoded image.
    name: what it is called in errors.
    keep_png: whether a PNG stays one; otherwise it becomes a JPEG.

  Returns:
    The encoded image.

  Raises:
    ValueError: if it is not a JPEG or PNG, or too large.
  """
  with _named(name):
    with warnings.catch_warnings():
      warnings.simplefilter('ignore', Image.DecompressionBombWarning)
      image = Image.open(io.BytesIO(data), formats=('JPEG', 'PNG'))
  if image.width * image.height > MAX_PIXELS:
    raise _too_large(name, f'{image.width} x {image.height}')
  if image.mode != 'CMYK' and (image.format != 'PNG' or keep_png):
    return data
  buffer = io.BytesIO()
  with _named(name):
    image.convert('RGB').save(buffer, 'JPEG', quality=100, subsampling=0)
  return buffer.getvalue()


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
  """Turns what Pillow raises into a sentence with the image's name."""
  try:
    yield
  except Image.DecompressionBombError as error:
    raise _too_large(name, 'says its header') from error
  except (OSError, SyntaxError, EOFError, ValueError) as error:
    reason = ' '.join(str(error).split())
    raise ValueError(
      f'{name} is not a readable JPEG or PNG image ({reason}): replace or '
      'remove it'
    ) from error


def check_bytes(size: int, name: str) -> None:
  """Refuses a file that is too large for an image.

  Raises:
    ValueError: if it has too many bytes, or none.
  """
  if not 0 < size <= MAX_BYTES:
    raise ValueError(
      f'{name} has {size} bytes, where an image of 1 to {MAX_BYTES} was '
      'wanted: replace or remove it'
    )


def _too_large(name: str, size: str) -> ValueError:
  return ValueError(
    f'{name} is larger than {MAX_PIXELS} pixels ({size}): a decompression '
    'bomb, or an image to be made smaller'
  )
