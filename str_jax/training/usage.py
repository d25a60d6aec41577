"""What ``python main.py --help`` prints."""

from __future__ import annotations

import textwrap

from absl import flags

_FLAGS = (
  *('config', 'workdir'),
  *('coordinator', 'num_processes', 'process_index'),
)
_HELP = """\
usage: python main.py --config=FILE[:VARIANT] [--config.FIELD=VALUE ...]
                      [--workdir=DIR] [--coordinator=HOST:PORT
                      --num_processes=N --process_index=I]

Trains, evaluates and reports a sparse network. The same command again goes on
where the run was stopped. Commands on data and on runs: python -m str_jax.

{flags}

example:
  python main.py --config=configs/digits.py:str --config.method.target=0.9

configs/*.py say which variants they have, docs/config.md what each field is."""


def text() -> str:
  """How the command line is written, and what each flag is for."""
  lines = []
  for name in _FLAGS:
    line = f'  --{name:15}{flags.FLAGS[name].help}'
    lines += textwrap.wrap(line, 80, subsequent_indent=' ' * 19)
  return _HELP.format(flags='\n'.join(lines))
