"""`python -m str_jax sweep` of a trainer that is quick."""

import pathlib

import pytest

from str_jax import __main__ as command_line

ROOT = pathlib.Path(__file__).parents[1]
SPEC = f'{ROOT}/configs/digits.py:st3'

# In the place of the trainer: fails, waits for SIGTERM, or leaves a summary.
MAIN = """
import json, pathlib, signal, sys, time
flags = dict(a.lstrip('-').split('=', 1) for a in sys.argv[1:])
sparsity = float(flags.get('config.method.sparsity', 0.5))
folder = pathlib.Path(flags['workdir'])
with open('begun.txt', 'a') as file:
  print(folder.name, file=file)
if pathlib.Path('fails').exists() and sparsity == 0.9:
  print('a line\\nerror: the learning rate is too high.\\nand a last line')
  sys.exit(2)
if pathlib.Path('waits').exists():
  def save(*unused):
    (folder / 'saved').touch()
    sys.exit(0)
  signal.signal(signal.SIGTERM, save)
  (folder / 'ready').touch()
  time.sleep(60)
(folder / 'config.json').touch()
(folder / 'summary.json').write_text(json.dumps({
  'top1': sparsity + int(flags.get('config.seed', 0)) / 100,
  'sparsity': sparsity, 'dense_flops': 4000000, 'flops': 2000000,
  'seconds': 1.5, 'steps': 9, 'weights': 10, 'nonzero': 1, 'layers': [],
  **dict.fromkeys(('config', 'versions'), {}),
  **dict.fromkeys(('model', 'dataset', 'method', 'command', 'device'), ''),
  **dict.fromkeys(('note', 'best_top1', 'best_step', 'eval_loss')),
  'examples_per_second': None,
}))
"""


def sweep(*arguments, over='method.sparsity=0.8,0.90', out='out'):
  command_line.main(
    ['sweep', f'--config={SPEC}', f'--over={over}', f'--out={out}', *arguments]
  )


def begun(folder):
  path = folder / 'begun.txt'
  names = path.read_text().split() if path.exists() else []
  path.unlink(missing_ok=True)
  return names


def error_of(capsys, *arguments, **options):
  with pytest.raises(SystemExit) as end:
    sweep(*arguments, **options)
  assert end.value.code == 2
  error = capsys.readouterr().err
  assert error.startswith('error: ') and error.count('\n') == 1
  return error
