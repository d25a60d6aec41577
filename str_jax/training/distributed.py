"""Several processes of one run: how they find each other, agree and leave."""

from __future__ import annotations

import contextlib
import glob
import importlib.util
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from str_jax.training.console import one_line

_LONGEST = 2000  # bytes of a sentence that goes to all processes
_TIMEOUT_SECONDS = 300  # for the others to appear
_GRACE_SECONDS = 1.0  # for the others to end by themselves
# How errors of communication begin, on a CPU, a GPU or a TPU.
_LOST = re.compile(
  '(UNKNOWN|UNAVAILABLE|INTERNAL|ABORTED|CANCELLED|DEADLINE_EXCEEDED): '
)


def start(
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_index: int | None = None,
) -> None:
  """Joins the processes of a run; the first use of JAX in a program.

  Without arguments the environment decides: on a TPU pod, under SLURM or
  Open MPI, JAX finds the other processes by itself, and anywhere else there
  are none. What processes other than the first print is dropped; their errors
  are not.

  Args:
    coordinator: HOST:PORT of the first process, as all can reach it.
    num_processes: of the run.
    process_index: of this one, counted from 0.

  Raises:
    ValueError: some of the three are missing, or out of range.
    OSError: the other processes do not answer, or the environment announces
      some and does not say which.
  """
  given = (coordinator, num_processes, process_index)
  if given == (None, None, None):
    if not announced(os.environ):
      return
  else:
    _check(*given)
  try:
    jax.distributed.initialize(
      coordinator,
      num_processes,
      process_index,
      initialization_timeout=_TIMEOUT_SECONDS,
    )
  except ValueError as error:
    if coordinator is not None:
      raise
    if on_tpu(os.environ):
      return  # a TPU of one host
    raise OSError(
      'the environment announces a run of several processes, but JAX cannot '
      f'make out which ({one_line(error)}): give --coordinator=HOST:PORT, '
      '--num_processes=N and --process_index=I, or unset '
      'JAX_COORDINATOR_ADDRESS for a run of one process.'
    ) from error
  except (RuntimeError, jax.errors.JaxRuntimeError) as error:
    raise OSError(
      f'the processes of the run did not find each other ({one_line(error)}): '
      'start all of them with the same --coordinator, each with its own '
      '--process_index.'
    ) from error
  if jax.process_index():
    sys.stdout = open(os.devnull, 'w')


def announced(environment: Mapping[str, str]) -> bool:
  """Whether the environment says that there may be several processes.

  Args:
    environment: variables by name.

  Returns:
    True on a TPU, for a SLURM step or an Open MPI run of several tasks, under
    Kubernetes' indexed jobs, and where JAX_COORDINATOR_ADDRESS is set.

  >>> announced({'SLURM_STEP_NODELIST': 'node[1-2]', 'SLURM_NTASKS': '2'})
  True
  >>> announced({'SLURM_JOB_ID': '7', 'SLURM_NTASKS': '2'})  # no srun
  False
  """

  def several(name: str) -> bool:
    value = environment.get(name, '')
    return value.isdigit() and int(value) > 1

  return (
    'JAX_COORDINATOR_ADDRESS' in environment
    or ('SLURM_STEP_NODELIST' in environment and several('SLURM_NTASKS'))
    or several('OMPI_COMM_WORLD_SIZE')
    or 'JOB_COMPLETION_INDEX' in environment
    or on_tpu(environment)
  )


def is_first() -> bool:
  """Whether this process is the one that writes and prints."""
  return jax.process_index() == 0


def on_first(action: Callable[[], None]) -> None:
  """Does on the first process what is to be done once; all share an error.

  Args:
    action: writes files, say.

  Raises:
    ValueError: on every process, with the sentence of what failed.
  """
  if jax.process_count() == 1:
    action()
    return
  sentence = ''
  if is_first():
    try:
      action()
    except (ValueError, OSError) as error:
      sentence = one_line(error)
  message = np.zeros(_LONGEST, np.uint8)
  data = sentence.encode()[:_LONGEST]
  message[: len(data)] = np.frombuffer(data, np.uint8)
  message = np.asarray(multihost_utils.broadcast_one_to_all(message))
  if message.any():
    raise ValueError(message.tobytes().rstrip(b'\0').decode(errors='replace'))


def all_agree(yes: bool) -> bool:
  """Whether something holds on every process."""
  if jax.process_count() == 1:
    return yes
  return bool(multihost_utils.process_allgather(np.bool_(yes)).all())


@contextlib.contextmanager
def losing() -> Iterator[None]:
  """Says what to do where the others of a run are gone.

  Raises:
    OSError: in the place of what the network's library raises.
  """
  try:
    yield
  except (ValueError, jax.errors.JaxRuntimeError) as error:
    if jax.process_count() == 1 or not _LOST.match(str(error)):
      raise
    raise OSError(
      f'process {jax.process_index()} of {jax.process_count()} could not go '
      f'on ({one_line(error)[:200]}): most likely another one has died. Start '
      'all of them again: the run goes on from its last checkpoint.'
    ) from error


@contextlib.contextmanager
def leaving() -> Iterator[None]:
  """Ends a process that fails at once, not after waiting for the others.

  A process that ends takes the others with it: they fail in what they do
  together, and the next start goes on from the last checkpoint.
  """
  try:
    yield
  except BaseException as error:
    code = error.code if isinstance(error, SystemExit) else 1
    if not jax.distributed.is_initialized() or not code:
      raise
    if not isinstance(error, SystemExit):  # which has said why
      traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    if is_first():  # without it the others are aborted, with no word of theirs
      time.sleep(_GRACE_SECONDS)
    os._exit(code if isinstance(code, int) else 1)


def _check(
  coordinator: str | None, num_processes: int | None, process_index: int | None
) -> None:
  if coordinator is None or num_processes is None or process_index is None:
    raise ValueError(
      'a run of several processes needs all of --coordinator=HOST:PORT, '
      '--num_processes=N and --process_index=I, got '
      f'{coordinator}, {num_processes} and {process_index}.'
    )
  host, _, port = coordinator.rpartition(':')
  if not host or not port.isdigit():
    raise ValueError(
      f'--coordinator must be HOST:PORT of the first process, as '
      f'10.0.0.2:1234, got {coordinator!r}.'
    )
  if num_processes < 1 or not 0 <= process_index < num_processes:
    raise ValueError(
      '--process_index counts the --num_processes from 0, got '
      f'{process_index} of {num_processes}.'
    )


def on_tpu(environment: Mapping[str, str]) -> bool:
  """Whether this is a host of a TPU: alone or of a pod, JAX finds out."""
  if environment.get('JAX_PLATFORMS', 'tpu').split(',')[0] != 'tpu':
    return False
  devices = glob.glob('/dev/accel*') or glob.glob('/dev/vfio/[0-9]*')
  return bool(devices) and importlib.util.find_spec('libtpu') is not None
