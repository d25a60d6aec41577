"""`prepare imagenet` from tars and images that mean harm."""

import io
import re
import struct
import tarfile
import zlib

import cv2
import numpy as np
import pytest
from etils import epath
from PIL import Image

from str_jax import __main__ as command_line
from str_jax.data import imagenet, images

IMAGE = 'n01440764_0.JPEG'
JPEG = cv2.imencode('.jpg', np.zeros((8, 8, 3), np.uint8))[1].tobytes()


def tar(files, **settings):
  """A tar of name to content, or to a TarInfo that has none."""
  file = io.BytesIO()
  with tarfile.open(fileobj=file, mode='w', **settings) as archive:
    for name, content in files.items():
      info = content
      if isinstance(content, bytes):
        info = tarfile.TarInfo(name)
        info.size = len(content)
      archive.addfile(info, io.BytesIO(content) if info.size else None)
  return file.getvalue()


def write_tars(folder, train):
  """The training tar as given, and a validation tar that is right."""
  (folder / imagenet.TRAIN_TAR).write_bytes(train)
  validation = tar({'ILSVRC2012_val_00000001.JPEG': JPEG})
  (folder / imagenet.VALIDATION_TAR).write_bytes(validation)


def error(tars, out, capsys):
  """The sentence with which the command ends, in exit code 2."""
  flags = [f'--tars={tars}', f'--out={out}', '--processes=1']
  with pytest.raises(SystemExit) as raised:
    command_line.main(['prepare', 'imagenet', *flags])
  assert raised.value.code == 2
  printed = capsys.readouterr().err
  assert printed.startswith('error: ') and printed.count('\n') == 1
  return printed


def member(name, size=0, kind=tarfile.REGTYPE, link=''):
  info = tarfile.TarInfo(name)
  info.size, info.type, info.linkname = size, kind, link
  return info


def of_class(files, **settings):
  return tar({'n01440764.tar': tar(files, **settings)})


def lying(size):
  """An inner tar whose only member says that it has so many bytes."""
  header = member('n01440764_0.JPEG', size).tobuf(tarfile.GNU_FORMAT)
  return tar({'n01440764.tar': header + bytes(2 * 512)})


EVIL = {
  'parent': (of_class({'../../n01440764_0.JPEG': JPEG}), 'holds .../../n0144'),
  'absolute': (of_class({'/etc/evil.JPEG': JPEG}), "holds '/etc/evil.JPEG'"),
  'outer name': (
    tar({'../n01440764.tar': tar({IMAGE: JPEG})}),
    'a class.s tar',
  ),
  'no class': (tar({'n00000000.tar': tar({IMAGE: JPEG})}), 'a class.s tar'),
  'symlink': (
    of_class({IMAGE: member(IMAGE, kind=tarfile.SYMTYPE, link='/etc/passwd')}),
    'not a regular file',
  ),
  'hard link': (
    of_class({IMAGE: member(IMAGE, kind=tarfile.LNKTYPE, link='x')}),
    'not a regular file',
  ),
  'device': (
    tar({'n01440764.tar': member('n01440764.tar', kind=tarfile.CHRTYPE)}),
    'not a regular file',
  ),
  'size lies': (lying(10**12), 'of 1000000000000 bytes, but only 1024 bytes'),
  'size negative': (lying(-512), 'of -512 bytes, but only'),
  'long name': (
    of_class({'x' * 300: JPEG}, format=tarfile.GNU_FORMAT),
    'not a regular file',
  ),
  'extended': (
    of_class({'é' * 300: JPEG}, format=tarfile.PAX_FORMAT),
    'extended header',
  ),
  'twice': (of_class({IMAGE: JPEG, f'./{IMAGE}': JPEG}), f'{IMAGE} twice'),
  'empty': (tar({}), 'holds no images'),
  'cut off': (of_class({IMAGE: JPEG})[:1500], 'but only 988 bytes follow'),
  'no tar': (b'<html>not found</html>' * 99, 'is not a tar'),
  'no image': (of_class({IMAGE: b'no image'}), f'{IMAGE} in .* is not a reada'),
  'no bytes': (of_class({IMAGE: b''}), f'{IMAGE} in .* has 0 bytes'),
}


@pytest.mark.parametrize('name', EVIL)
def test_an_evil_tar_is_one_sentence(name, tmp_path, capsys):
  content, message = EVIL[name]
  tars, out = tmp_path / 'a' / 'tars', tmp_path / 'a' / 'b' / 'out'
  tars.mkdir(parents=True)
  write_tars(tars, content)
  found = error(tars, out, capsys)
  assert re.search(message, found), found
  files = [p for p in tmp_path.rglob('*') if p.is_file()]
  assert {p.parent for p in files} == {tars}


def test_times_in_extended_headers_are_passed_over(tmp_path):
  # As Python's tarfile writes them where a time has fractions.
  info = member(IMAGE, len(JPEG))
  info.mtime = 1.5
  file = io.BytesIO()
  with tarfile.open(fileobj=file, mode='w', format=tarfile.PAX_FORMAT) as inner:
    inner.addfile(member('folder', kind=tarfile.DIRTYPE))
    inner.addfile(info, io.BytesIO(JPEG))
  write_tars(tmp_path, tar({'./n01440764.tar': file.getvalue()}))
  (split, _) = imagenet.splits(epath.Path(tmp_path))
  assert list(split.reader(split.items)) == [JPEG]


def test_a_missing_tar_is_one_sentence(tmp_path, capsys):
  (tmp_path / 'tars').mkdir()
  write_tars(tmp_path / 'tars', of_class({IMAGE: JPEG}))
  (tmp_path / 'tars' / imagenet.VALIDATION_TAR).unlink()
  found = error(tmp_path / 'tars', tmp_path / 'out', capsys)
  assert f'{imagenet.VALIDATION_TAR} is not in' in found
  assert 'image-net.org' in found


def bomb(side):
  """A PNG of a few bytes that says it is side x side pixels."""

  def chunk(kind, body):
    checksum = struct.pack('>I', zlib.crc32(kind + body))
    return struct.pack('>I', len(body)) + kind + body + checksum

  header = struct.pack('>IIBBBBB', side, side, 8, 2, 0, 0, 0)
  return (
    b'\x89PNG\r\n\x1a\n'
    + chunk(b'IHDR', header)
    + chunk(b'IDAT', zlib.compress(bytes(1000)))
    + chunk(b'IEND', b'')
  )


@pytest.mark.parametrize('side', [20_000, 1_000_000])
@pytest.mark.parametrize('keep_png', [True, False])
def test_a_decompression_bomb_is_one_sentence(side, keep_png, monkeypatch):
  monkeypatch.setattr(Image.Image, 'convert', lambda *_: pytest.fail('decoded'))
  with pytest.raises(ValueError, match='x.png is larger than 178956970 pixels'):
    images.standard(bomb(side), 'x.png', keep_png=keep_png)
  # Also where a program has lifted Pillow's own limit.
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', None)
  with pytest.raises(ValueError, match=f'{side} x {side}.: a decompression bo'):
    images.standard(bomb(side), 'x.png', keep_png=keep_png)
