"""Folders that a user names: on a disk, or at gs://, s3:// and such."""

import os

from etils import epath


def place(name: str | os.PathLike[str]) -> epath.Path:
  """The path of a name, addresses untouched: pathlib would make gs:/ of gs://.

  Raises:
    ValueError: an address of a kind that epath does not know.
    OSError: a bucket that cannot be reached, or whose library is missing.
  """
  try:
    path = epath.Path(name).expanduser()
  except KeyError as error:  # epath's answer to another address
    raise ValueError(
      f'{name} is neither a folder on this disk nor an address at gs:// or '
      's3://'
    ) from error
  if not is_remote(path):
    return path
  try:
    path.exists()
  except Exception as error:  # every client library raises its own
    raise OSError(
      f'{path} cannot be reached ({error}): gs:// needs the package gcsfs, '
      's3:// s3fs, and both the rights to read the bucket'
    ) from error
  return path


def is_remote(path: epath.Path) -> bool:
  """Whether a path is one of gs://, s3:// and such."""
  return '://' in str(path)
