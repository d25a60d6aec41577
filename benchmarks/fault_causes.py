"""What can happen to a run of main.py, each done for real."""

from __future__ import annotations

import os
import pathlib
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import psutil

from benchmarks import trials
from benchmarks.trials import Ended, Trial

_CLOCK = r"""
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* The system's clock, a day ahead of and then a day behind the true one. */
int clock_gettime(clockid_t id, struct timespec *t) {
  static struct timespec first;
  int result = syscall(SYS_clock_gettime, id, t);
  if (id != CLOCK_REALTIME || result) return result;
  if (!first.tv_sec) first = *t;
  long seconds = t->tv_sec - first.tv_sec;
  if (seconds >= 4) t->tv_sec += seconds % 4 < 2 ? 86400 : -86400;
  return 0;
}
int gettimeofday(struct timeval *v, void *zone) {
  struct timespec t;
  int result = clock_gettime(CLOCK_REALTIME, &t);
  v->tv_sec = t.tv_sec, v->tv_usec = t.tv_nsec / 1000;
  return result;
}
time_t time(time_t *seconds) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  if (seconds) *seconds = t.tv_sec;
  return t.tv_sec;
}
"""


Cause = Callable[[Trial], list[Ended]]


class NotHere(Exception):
  """This machine does not let a fault be caused."""


# Each does something to a run, and says how its first start ended.


def killed_at(trial: Trial, seconds: float) -> list[Ended]:
  (process,) = trial.start()
  time.sleep(seconds)
  process.kill()
  return [trials.end(process)]


def stopped(trial: Trial, number: int, step: int = 110) -> list[Ended]:
  (process,) = trial.start()
  trials.reach(process, step)
  process.send_signal(number)
  return [trials.end(process)]


def one_of_two(trial: Trial, number: int, index: int) -> list[Ended]:
  trial.processes = 2
  both = trial.start(processes=2)
  trials.reach(both[0], 110)
  both[index].send_signal(number)
  began = time.monotonic()
  others = [p for p in both if p is not both[index] or number != signal.SIGKILL]
  ended = [trials.end(process) for process in others]
  code, output = ended[0]
  if number == signal.SIGKILL:
    seconds = time.monotonic() - began
    ended[0] = (code, f'{output}\nnote: ended {seconds:.1f} s after the kill')
    trials.end(both[index])
  return ended


def damaged(
  trial: Trial, damage: Callable[[pathlib.Path], None]
) -> list[Ended]:
  ended = stopped(trial, signal.SIGTERM)
  last = max(trial.checkpoints, key=int)
  damage(trial.workdir / 'checkpoints' / last)
  return [(ended[0][0], '')]


def truncate(folder: pathlib.Path) -> None:
  path = _arrays(folder)
  os.truncate(path, path.stat().st_size // 2)


def flip_arrays(folder: pathlib.Path) -> None:
  _flip(_arrays(folder))


def flip_metrics(folder: pathlib.Path) -> None:
  _flip(folder / 'metrics' / 'metrics')


def flip_manifest(folder: pathlib.Path) -> None:
  _flip(folder / 'default' / 'manifest.ocdbt')


def empty(folder: pathlib.Path) -> None:
  for path in folder.iterdir():
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _arrays(folder: pathlib.Path) -> pathlib.Path:
  files = [p for p in (folder / 'default').rglob('d/*') if p.is_file()]
  return max(files, key=lambda path: path.stat().st_size)


def _flip(path: pathlib.Path) -> None:
  data = bytearray(path.read_bytes())
  for place in range(len(data) // 2, min(len(data) // 2 + 4, len(data))):
    data[place] ^= 0xFF
  path.write_bytes(data)


def torn_line(trial: Trial) -> list[Ended]:
  ended = stopped(trial, signal.SIGKILL)
  path = trial.workdir / 'metrics.jsonl'
  os.truncate(path, path.stat().st_size - 40)
  return ended


def full_in_save(trial: Trial) -> list[Ended]:
  _disk(trial, '1m')
  ended = trial.run()
  _mount('-o', 'remount,size=16m', trial.workdir)
  return ended


def full_in_line(trial: Trial) -> list[Ended]:
  stopped(trial, signal.SIGKILL, 60)
  kept = trial.workdir.rename(trial.folder / 'kept')
  _disk(trial, '96k')
  # The checkpoints lie on another disk: only lines are short of room.
  (trial.workdir / 'checkpoints').symlink_to(kept / 'checkpoints')
  for path in kept.glob('*.json*'):
    shutil.copy(path, trial.workdir)
  ended = trial.run()
  _mount('-o', 'remount,size=16m', trial.workdir)
  return ended


def read_only(trial: Trial) -> list[Ended]:
  _disk(trial, '16m')
  stopped(trial, signal.SIGKILL)
  _mount('-o', 'remount,ro', trial.workdir)
  ended = trial.run()
  _mount('-o', 'remount,rw', trial.workdir)
  return ended


def _disk(trial: Trial, size: str) -> None:
  """A small disk of its own under the run's folder."""
  trial.workdir.mkdir()
  _mount('-t', 'tmpfs', '-o', f'size={size}', 'none', trial.workdir)
  umount = ['umount', str(trial.workdir)]
  trial.after.callback(subprocess.run, umount, check=True)


def _mount(*arguments: Any) -> None:
  done = subprocess.run(['mount', *map(str, arguments)], capture_output=True)
  if done.returncode:
    raise NotHere('not tried: mounting needs root')


def two_at_once(trial: Trial, apart: int | None) -> list[Ended]:
  (first,) = trial.start()
  if apart:
    trials.reach(first, apart)
  (second,) = trial.start()
  ended = [trials.end(first), trials.end(second)]
  return sorted(ended, reverse=True)  # the one that was refused first


def worker_killed(trial: Trial) -> list[Ended]:
  trial.fields['num_workers'] = 2
  (process,) = trial.start()
  said = ''
  for step in (50, 150):
    said += trials.reach(process, step)
    random.Random(step).choice(_workers(process.pid)).kill()
  code, rest = trials.end(process)
  return [(code, said + rest)]


def _workers(pid: int) -> list[psutil.Process]:
  children = psutil.Process(pid).children(recursive=True)
  return [p for p in children if 'spawn_main' in ' '.join(p.cmdline())]


def clock_jumps(trial: Trial) -> list[Ended]:
  source, library = trial.folder / 'clock.c', trial.folder / 'clock.so'
  source.write_text(_CLOCK)
  command = ['cc', '-shared', '-fPIC', '-o', str(library), str(source)]
  try:
    subprocess.run(command, check=True)
  except FileNotFoundError as error:
    raise NotHere('not tried: needs a C compiler') from error
  jumping = {'LD_PRELOAD': str(library)}
  (process,) = trial.start(environment=jumping)
  trials.reach(process, 110)
  process.kill()
  return [trials.end(process)]


def other_workers(trial: Trial) -> list[Ended]:
  ended = stopped(trial, signal.SIGTERM)
  trial.fields['num_workers'] = 2
  return ended


FAULTS: dict[str, Cause] = {
  'SIGTERM': lambda t: stopped(t, signal.SIGTERM),
  'Ctrl-C': lambda t: stopped(t, signal.SIGINT),
  'SIGTERM to the second of two processes': lambda t: one_of_two(
    t, signal.SIGTERM, 1
  ),
  'kill -9 of the second of two processes': lambda t: one_of_two(
    t, signal.SIGKILL, 1
  ),
  'kill -9 of the first of two processes': lambda t: one_of_two(
    t, signal.SIGKILL, 0
  ),
  **{
    f'last checkpoint: {name}': lambda t, damage=damage: damaged(t, damage)
    for name, damage in {
      'arrays truncated': truncate,
      'bytes of arrays flipped': flip_arrays,
      'bytes of its metrics flipped': flip_metrics,
      'bytes of its manifest flipped': flip_manifest,
      'folder emptied': empty,
    }.items()
  },
  'metrics.jsonl with a torn last line': torn_line,
  'disk full in a save': full_in_save,
  'disk full in a metrics line': full_in_line,
  'workdir read-only': read_only,
  'a second run on the workdir, at step 20': lambda t: two_at_once(t, 20),
  'two runs started on the workdir at once': lambda t: two_at_once(t, None),
  'a worker of two killed, twice': worker_killed,
  'clock jumps by a day, ahead and back': clock_jumps,
  'workers of the pipeline: 0, then 2': other_workers,
}
