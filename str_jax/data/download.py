"""Downloads a file, goes on where an earlier try stopped, and checks it."""

import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path

import rich.progress

_CHUNK = 1 << 18
_TIMEOUT_SECONDS = 60


def download(url: str, path: Path, md5: str) -> None:
  """Fetches a file unless it is there; what an earlier try got is kept.

  The file appears under its name only when it is complete and right; until
  then it is `path` with .part added.

  Raises:
    OSError: if the connection fails; the next try goes on from there.
    ValueError: if the checksum is wrong; what was fetched is deleted.
  """
  if path.exists():
    _check(path, md5)
    return
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise OSError(
      f'the folder {path.parent} cannot be made ({error.strerror}): name '
      'another --data_dir'
    ) from error
  part = path.with_name(path.name + '.part')
  try:
    _fetch(url, part)
  except (OSError, http.client.HTTPException, ValueError) as error:
    raise OSError(
      f'{url} could not be downloaded ({error}): run the command again to go '
      f'on, try --url, or put the file at {path} yourself'
    ) from error
  _check(part, md5)
  part.rename(path)


def _fetch(url: str, part: Path) -> None:
  """Appends to `part` what it lacks of the file at the URL."""
  have = part.stat().st_size if part.exists() else 0
  request = urllib.request.Request(url)
  if have:
    request.add_header('Range', f'bytes={have}-')
  try:
    response = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
  except urllib.error.HTTPError as error:
    if have and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
      return  # nothing is lacking: the checksum tells whether it is right
    raise
  with response:
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
      have = 0  # this server sends the whole file
    length = response.headers.get('Content-Length')
    total = have + int(length) if length else None
    with part.open('ab' if have else 'wb') as file, _progress() as progress:
      task = progress.add_task(part.stem, total=total, completed=have)
      while chunk := response.read(_CHUNK):
        file.write(chunk)
        progress.advance(task, len(chunk))
  size = part.stat().st_size
  if total is not None and size < total:
    raise OSError(f'the connection ended after {size} of {total} bytes')


def _progress() -> rich.progress.Progress:
  return rich.progress.Progress(
    rich.progress.TextColumn('{task.description}'),
    rich.progress.BarColumn(),
    rich.progress.DownloadColumn(),
    rich.progress.TransferSpeedColumn(),
    rich.progress.TimeRemainingColumn(),
  )


def _check(path: Path, md5: str) -> None:
  with path.open('rb') as file:
    found = hashlib.file_digest(file, 'md5').hexdigest()
  if found != md5:
    path.unlink()
    raise ValueError(
      f'{path} had the MD5 checksum {found}, where {md5} was wanted: it was '
      'deleted, run the command again or give the right --md5'
    )
