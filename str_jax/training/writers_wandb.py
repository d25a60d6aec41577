"""Weights and Biases: the scalars, the config and the results of a run.

The package is imported only where ``config.wandb`` names a project.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import pathlib
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from str_jax.training import records
from str_jax.training.console import one_line

_START_SECONDS = 30  # to reach the service
_FINISH_SECONDS = 60  # at the end of a run, for what is not sent yet


def check(project: str | None) -> None:
  """Checks that the package is there, if a project is named; imports nothing.

  Args:
    project: of the config; None for a run without W&B.

  Raises:
    ValueError: the package is missing.
  """
  if project is not None and importlib.util.find_spec('wandb') is None:
    raise ValueError(
      f'config.wandb={project} sends the run to Weights and Biases, which '
      'needs the package wandb, which is not installed: in the checkout of '
      "str_jax, pip install -e '.[wandb]', or leave the field out."
    )


class WandB:
  """A run of Weights and Biases, the same one whenever the run goes on.

  It is an extra: whatever fails in it is said once, and the training goes on
  without it.

  Args:
    workdir: the folder of the run; ``wandb.json`` in it keeps the id.
    project: where the run belongs.
    config: of the run.
    earlier: records that earlier starts of the run wrote and that it will
      write again: they were sent, and W&B cannot take them back.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    project: str,
    config: ConfigDict,
    earlier: Iterable[records.Record],
  ) -> None:
    check(project)
    path = workdir / 'wandb.json'
    known = records.read_json(path) if path.exists() else {}
    resumes = known.get('project') == project
    if not resumes:
      known = {'project': project, 'id': secrets.token_hex(4)}
      records.write_json(path, known)
    self._sent = {(r['kind'], r['step']) for r in earlier if resumes}
    self._finished = False
    self._run: Any = None
    arguments = known | {
      'name': workdir.name,
      'dir': str(workdir),
      'config': config.to_dict(),
      'resume': 'allow',
      'allow_val_change': True,  # num_workers, say
      'settings': {
        'console': 'off',
        'init_timeout': _START_SECONDS,
        'finish_timeout': _FINISH_SECONDS,
      },
    }
    self._try(functools.partial(self._start, arguments))
    if self._run is None:
      self._try(functools.partial(self._start_offline, arguments))

  def scalars(self, kind: str, values: Mapping[str, float], step: int) -> None:
    """Sends the numbers of a record.

    Args:
      kind: of the record, 'train' or 'validation'.
      values: by their tags.
      step: of the record.
    """
    if self._run is not None and (kind, step) not in self._sent:
      self._try(lambda: self._run.log({'step': step, **values}))

  def finish(self, results: Mapping[str, Any]) -> None:
    """Sends the results, all of summary.json that is a number or a text."""
    kept = {
      k: v for k, v in results.items() if isinstance(v, (int, float, str))
    }
    if self._run is not None:
      self._try(lambda: self._run.summary.update(kept))
    self._finished = True

  def close(self) -> None:
    """Ends the run of W&B; as failed where the training is not finished."""
    if self._run is not None:
      code = 0 if self._finished else 1
      self._try(lambda: self._run.finish(exit_code=code))
      self._run = None

  def _start(self, arguments: Mapping[str, Any]) -> None:
    run = importlib.import_module('wandb').init(**arguments)
    run.define_metric('*', step_metric='step')
    self._run = run

  def _start_offline(self, arguments: Mapping[str, Any]) -> None:
    importlib.import_module('wandb').teardown()  # of what was half begun
    self._start({**arguments, 'mode': 'offline'})
    print('its records are kept for `wandb sync`.', flush=True)

  def _try(self, action: Callable[[], Any]) -> None:
    try:
      action()
    except Exception as error:  # a service of others, over a network
      self._run = None
      print(
        f'warning: Weights and Biases failed ({one_line(error)}); the run '
        'goes on without it.',
        flush=True,
      )
