"""Where the files of a tar lie in it: a tar is read, never unpacked.

A tar from a stranger may lie. Names come back as data and are no paths to
write to; what is neither a regular file nor a folder, and a size that runs
past the end, is refused before a byte of it is read.
"""

import tarfile
from collections.abc import Iterator
from typing import IO, NamedTuple

_BLOCK = 512
_EXTENDED_BYTES = 1 << 16  # a Pax header holds times and the like: a few words
# What an extended header may not change, as it is not applied here.
_OVERRIDES = (b' path=', b' size=', b' linkpath=', b'GNU.sparse')


class Member(NamedTuple):
  """A regular file in a tar.

  Attributes:
    name: as the tar gives it.
    offset: of its first byte in the file that holds the tar.
    size: its bytes.
  """

  name: str
  offset: int
  size: int


def members(
  file: IO[bytes], where: str, start: int, stop: int
) -> Iterator[Member]:
  """The regular files of the tar at bytes [start, stop) of a file.

  Args:
    file: an open file.
    where: what the tar is called in errors.
    start: of the tar in the file: tars lie in tars.
    stop: its end.

  Yields:
    A :class:`Member` each, in the tar's order.

  Raises:
    ValueError: if it is no tar, cut off, or holds anything but regular files
      and folders.
  """
  position = start
  while position < stop:
    file.seek(position)
    block = file.read(min(_BLOCK, stop - position))
    try:
      header = tarfile.TarInfo.frombuf(block, 'utf-8', 'surrogateescape')
    except tarfile.HeaderError as error:
      if not block.strip(b'\0') and len(block) == _BLOCK:
        return  # the end mark
      raise ValueError(
        f'{where} is not a tar, or is damaged or cut off, at byte '
        f'{position - start} ({error}): fetch it again'
      ) from error
    position += _BLOCK
    if not 0 <= header.size <= stop - position:
      raise ValueError(
        f'{where} holds {header.name!r} of {header.size} bytes, but only '
        f'{stop - position} bytes follow: it is cut off or forged, fetch it '
        'again'
      )
    if header.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
      yield Member(header.name, position, header.size)
    elif header.type in (tarfile.XHDTYPE, tarfile.XGLTYPE):
      _check_extended(file, where, header)
    elif header.type != tarfile.DIRTYPE:
      raise ValueError(
        f'{where} holds {header.name!r}, which is not a regular file (a link, '
        f'a device or the like, type {header.type!r}): it is not the archive'
      )
    position += -(-header.size // _BLOCK) * _BLOCK


def _check_extended(
  file: IO[bytes], where: str, header: tarfile.TarInfo
) -> None:
  """Refuses a Pax header that would say more than times and owners."""
  body = b''
  if header.size <= _EXTENDED_BYTES:
    body = file.read(header.size)
  if header.size > _EXTENDED_BYTES or any(key in body for key in _OVERRIDES):
    raise ValueError(
      f'{where} holds an extended header {header.name!r} of {header.size} '
      'bytes that changes names or sizes: it is not the archive'
    )
