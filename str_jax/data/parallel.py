"""Work shared out among processes that end with the one that started them."""

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import rich.progress

Job = TypeVar('Job')
Result = TypeVar('Result')


def run(
  work: Callable[[Job], Result], jobs: Sequence[Job], processes: int
) -> Iterator[tuple[Job, Result]]:
  """Does the jobs; what is done comes back at once, in any order.

  Args:
    work: a function of a module, as processes find it by name.
    jobs: its arguments, picklable.
    processes: how many work at a time; with 1, this one does.

  Yields:
    (job, what `work` returned).

  Raises:
    OSError: if a process was killed. What `work` raises is passed on, and the
      jobs not yet begun are dropped.
  """
  if processes == 1 or len(jobs) < 2:
    for job in jobs:
      yield job, work(job)
    return
  pool = concurrent.futures.ProcessPoolExecutor(
    min(processes, len(jobs)),
    mp_context=multiprocessing.get_context('spawn'),
    initializer=_start,
  )
  with pool:
    futures = {pool.submit(work, job): job for job in jobs}
    try:
      for future in concurrent.futures.as_completed(futures):
        yield futures[future], future.result()
    except BrokenProcessPool as error:
      raise OSError(
        'a process was killed, perhaps for want of memory: run the command '
        'again to go on, or with fewer --processes'
      ) from error
    finally:
      pool.shutdown(cancel_futures=True)


def die_with_parent(after_seconds: float = 0.0) -> None:
  """Ends this worker when its parent ends, however that does.

  After a kill -9 of the parent it would wait for ever, for work or for room
  in a queue.

  Args:
    after_seconds: how long after the parent.
  """
  parent = multiprocessing.parent_process()
  assert parent is not None, 'runs in a worker only'

  def watch() -> None:
    parent.join()
    time.sleep(after_seconds)
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
  """A bar on the terminal; gives the function that moves it on."""
  columns = (
    rich.progress.TextColumn('{task.description}'),
    rich.progress.BarColumn(),
    rich.progress.MofNCompleteColumn(),
    rich.progress.TimeRemainingColumn(),
  )
  with rich.progress.Progress(*columns) as bar:
    task = bar.add_task(title, total=total)
    yield lambda n: bar.advance(task, n)


def _start() -> None:
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to handle
  die_with_parent()
