"""One run of main.py that something is done to, held against an untouched one.

Shared by benchmarks/faults.py and benchmarks/soak.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import re
import socket
import subprocess
import threading
from typing import Any

from benchmarks import processes

LAST = 300
FIELDS = {
  'total_steps': LAST,
  'schedule.warmup_steps': 10,
  'log_every_steps': 1,
  'eval_every_steps': 30,
  'checkpoint_every_steps': 25,
  'seed': 1,  # the best checkpoint is not one of the last two
}
_SAID = re.compile(r'^(error: |stopped by |note: |the checkpoint )')
_NOISE = re.compile(r'^[IWEF]\d{4} |^\[Gloo\]|^\s*$')  # of JAX's C++ parts

Ended = tuple[int, str]


@dataclasses.dataclass
class Trial:
  """A run in a folder of its own.

  Attributes:
    folder: holds all that the run leaves.
    fields: of the config.
    cache: of what JAX compiles; by default the run's own, empty at first.
    processes: that make the run.
    after: ends what was started, and undoes what was done to the machine.
  """

  folder: pathlib.Path
  fields: dict[str, Any] = dataclasses.field(default_factory=dict)
  cache: pathlib.Path | None = None
  processes: int = 1
  after: contextlib.ExitStack = dataclasses.field(
    default_factory=contextlib.ExitStack
  )

  def __post_init__(self) -> None:
    self.folder.mkdir(parents=True, exist_ok=True)

  @property
  def workdir(self) -> pathlib.Path:
    """The run's own folder."""
    return self.folder / 'run'

  @property
  def checkpoints(self) -> list[str]:
    """The names in the folder of checkpoints."""
    return sorted(p.name for p in (self.workdir / 'checkpoints').glob('*'))

  def start(
    self, *, environment: dict[str, str] | None = None, **settings: Any
  ) -> list[subprocess.Popen[str]]:
    """Starts the run, or goes on with it; see :func:`processes.start`.

    Args:
      environment: variables beside the usual ones.
      **settings: of ``processes.start``.

    Returns:
      The processes.
    """
    fields = FIELDS | self.fields
    folder = self.cache or self.folder / 'compiled'
    cache = {'JAX_COMPILATION_CACHE_DIR': str(folder)}
    started = processes.start(
      [
        '--config=configs/digits.py:str',
        f'--workdir={self.workdir}',
        *(f'--config.{name}={value}' for name, value in fields.items()),
      ],
      environment=cache | (environment or {}),
      **settings,
    )
    for process in started:
      self.after.callback(process.kill)
    return started

  def run(self, **settings: Any) -> list[Ended]:
    """Starts the run and waits for its end; see ``start``."""
    return [end(process) for process in self.start(**settings)]


def reach(process: subprocess.Popen[str], step: int, last: int = LAST) -> str:
  """Waits until a run has printed a step.

  Args:
    process: the run's first process.
    step: the step.
    last: of the run, for the width of numbers.

  Returns:
    What was printed until then.

  Raises:
    RuntimeError: it ended before.
  """
  assert process.stdout is not None
  sign = f'step {step:>{len(str(last))}}/{last} '
  said = ''
  for line in process.stdout:
    said += line
    if line.startswith(sign):
      return said
  raise RuntimeError(f'the run ended before step {step}: {said[-2000:]}')


def end(process: subprocess.Popen[str], timeout: float = 300) -> Ended:
  """Waits for a process: its exit code, and what it printed till then.

  Args:
    process: with its output in a pipe, of which some may have been read.
    timeout: seconds until it is killed; the exit code is 124 then.

  Returns:
    The exit code and the rest of the output.
  """
  assert process.stdout is not None
  late = threading.Timer(timeout, process.kill)
  late.start()
  output = process.stdout.read()
  code = process.wait()
  hung = not late.is_alive()
  late.cancel()
  return 124 if hung else code, output


def sentences(output: str, folder: pathlib.Path) -> list[str]:
  """What a run said to its user, beside its course.

  Args:
    output: what it printed.
    folder: of the trial, written as DIR.

  Returns:
    Errors and notes, in their order; a traceback is one of them.

  >>> sentences('step 1/3 ...\\nerror: /a/run is full.', pathlib.Path('/a'))
  ['error: DIR/run is full.']
  """
  lines = [line for line in output.splitlines() if not _NOISE.match(line)]
  found = [line for line in lines if _SAID.match(line)]
  if 'Traceback' in output:
    found.append(f'TRACEBACK: {lines[-1]}')
  names = {str(folder): 'DIR', socket.gethostname(): 'HOST'}
  for name, short in names.items():
    found = [line.replace(name, short) for line in found]
  return found


def went_on(output: str) -> str:
  """From which step a run went on.

  >>> went_on('goes on from step 25 of 300')
  '25'
  """
  found = re.search(r'^goes on from step (\d+) of', output, re.MULTILINE)
  if found:
    return found[1]
  return 'finished' if 'finished run' in output else '0'


def equal(ours: pathlib.Path, theirs: pathlib.Path) -> str:
  """Whether two files are the same, byte for byte, or where they part.

  Args:
    ours: a metrics.jsonl.
    theirs: that of the untouched run.

  Returns:
    'equal', or the first line that is not.
  """
  if not ours.exists():
    return 'missing'
  ours_bytes, theirs_bytes = ours.read_bytes(), theirs.read_bytes()
  if ours_bytes == theirs_bytes:
    return 'equal'
  a, b = ours_bytes.splitlines(), theirs_bytes.splitlines()
  same = [x == y for x, y in zip(a, b)]
  first = same.index(False) if False in same else len(same)
  return f'differs from line {first + 1} on ({len(a)} and {len(b)} lines)'
