"""The blocks of the documents, and the commands that are in them."""

import ast
import dataclasses
import json
import pathlib
import re
import runpy
import shutil
import subprocess
import sys
import textwrap

import pytest

from str_jax import __main__ as command_line
from str_jax.training import flags

ROOT = pathlib.Path(__file__).resolve().parent.parent
_FENCE = re.compile(
  r'^(?:[ ]*<!-- not run: (?P<why>.+?) -->\n)?'
  r'^(?P<indent>[ ]*)```(?P<language>[\w+-]*)[^\n]*\n'
  r'(?P<text>.*?)^(?P=indent)```[ ]*$',
  re.MULTILINE | re.DOTALL,
)
# Other names of the two languages would go by unseen.
_ALIASES = ('sh', 'shell', 'console', 'zsh', 'py', 'python3', 'pycon')

MAIN_FLAGS = (
  *('config', 'workdir', 'coordinator', 'num_processes', 'process_index'),
)

# What a test cannot do, by a command's first word.
NOT_RUN = {
  'pip': 'installs packages',
  'gcloud': 'needs a TPU pod',
  'sbatch': 'needs a cluster',
  'srun': 'needs a cluster',
  'mkdocs': 'is run by .ci/run',
  'pre-commit': 'changes the repository',
  'ruff': 'is run by .ci/run',
  'mypy': 'is run by .ci/run',
}
# A command that does nothing but note where and how it was called.
_NOTE = """#!{python} -IS
import json, os, sys
with open(os.environ['NOTES'], 'a') as file:
  name = os.path.basename(sys.argv[0])
  print(json.dumps([os.environ['LINE'], name, *sys.argv[1:]]), file=file)
"""
# No place of the reader's is here. LINE is for the notes.
_PRELUDE = "cd() { :; }; trap 'export LINE=$LINENO' DEBUG; "


@dataclasses.dataclass(frozen=True)
class Block:
  """A block of a document.

  Attributes:
    document: its path below the root.
    line: of the block's first line.
    language: as the fence has it.
    text: of the block, without the fence's indent.
    why: it is not run; None where it is.
  """

  document: str
  line: int
  language: str
  text: str
  why: str | None


@dataclasses.dataclass(frozen=True)
class Command:
  """A command as bash would start it.

  Attributes:
    where: the document and the line.
    words: its name and arguments.
  """

  where: str
  words: tuple[str, ...]


def blocks(document: str) -> list[Block]:
  """The blocks of a document in their order."""
  text = (ROOT / document).read_text(encoding='utf-8')
  found = [
    Block(
      document,
      text.count('\n', 0, match.start('text')) + 1,
      match['language'],
      textwrap.dedent(match['text']),
      match['why'],
    )
    for match in _FENCE.finditer(text)
  ]
  for block in found:
    assert block.language not in _ALIASES, (
      f'{document}:{block.line}: a {block.language} block is called python or '
      'bash, or it is not run'
    )
  # A fence that is not closed hides all that follows.
  assert 2 * len(found) == len(re.findall('^ *```', text, re.MULTILINE))
  return found


def inline_commands(text: str) -> list[str]:
  """The commands, with their arguments, that stand between words."""
  spans = re.findall(r'(?<!`)`([^`]+)`(?!`)', _FENCE.sub('', text))
  commands = (' '.join(span.split()) for span in spans)
  return [
    command
    for command in commands
    if re.match(r'python (main\.py|-m str_jax \w+) .*--', command)
    and '...' not in command
  ]


def compiled(block: Block):
  """The code of a block, whose errors name the document's own lines."""
  tree = ast.parse('\n' * (block.line - 1) + block.text, block.document)
  return compile(tree, block.document, 'exec')


def commands(
  block: Block, folder: pathlib.Path, environment: dict[str, str]
) -> list[Command]:
  """What bash starts when it runs a block; nothing of it is started."""
  return _noted(
    block.text, f'{block.document}:', block.line, folder, environment
  )


def _noted(text, where, line, folder, environment):
  stubs, notes = folder / '.stubs', folder / '.notes'
  if not stubs.exists():
    stubs.mkdir()
    for name in ('python', *NOT_RUN):
      (stubs / name).write_text(_NOTE.format(python=sys.executable))
      (stubs / name).chmod(0o755)
  notes.write_text('')
  given = {**environment, 'PATH': str(stubs), 'NOTES': str(notes)}
  done = subprocess.run(
    [shutil.which('bash'), '-euc', f'{_PRELUDE}{text}\nwait'],
    **{'cwd': folder, 'env': given, 'text': True, 'capture_output': True},
  )
  assert done.returncode == 0, (
    f'{where}{line}: bash cannot run this block, or one of its commands is '
    f'neither python nor in NOT_RUN of tests/documents.py:\n{text}{done.stderr}'
  )
  found = []
  for note in notes.read_text().splitlines():
    at, *words = json.loads(note)
    found.append(Command(f'{where}{line + int(at) - 1}', tuple(words)))
  return found


def carried(
  command: Command, folder: pathlib.Path, environment: dict[str, str]
) -> list[Command]:
  """The commands that a cluster's own command carries."""
  if command.words[0] == 'srun':
    return [dataclasses.replace(command, words=command.words[1:])]
  if command.words[0] not in ('gcloud', 'sbatch'):
    return []
  assert command.words[-1].startswith(('--command=', '--wrap='))
  text = command.words[-1].partition('=')[2]
  inner = _noted(text, f'{command.where}+', 0, folder, environment)
  return inner + [c for i in inner for c in carried(i, folder, environment)]


def check(words: tuple[str, ...]) -> None:
  """Looks whether a command names what there is; runs nothing."""
  match words:
    case ['python', 'main.py', *args]:
      check_main(args)
    case ['python', '-m', 'str_jax', *args]:
      command_line.parse(args)
    case ['python', '-m', 'pytest', *args]:
      assert all((ROOT / a).exists() for a in args if not a.startswith('-'))
    case ['python', '-m', module, *args] if module.startswith('benchmarks.'):
      check_benchmark(module, args)
    case ['pip', 'install', *args]:
      for name in (a for a in args if not a.startswith('-')):
        check_requirement(name)
    case [name, *_]:
      assert name in NOT_RUN, f'a command of another kind: {words}'


def check_main(args: list[str]) -> None:
  """Looks whether main.py would take its arguments."""
  spec, *overrides = [a for a in args if a.startswith('--config')]
  others = {a.partition('=')[0] for a in args if a not in overrides}
  assert others <= {f'--{name}' for name in MAIN_FLAGS}
  flags.load_config(spec.removeprefix('--config='), overrides)


class _Parsed(Exception):
  pass


def check_benchmark(module: str, args: list[str]) -> None:
  """Starts a benchmark and has it parse its arguments, and no more."""
  import argparse

  parse = argparse.ArgumentParser.parse_known_args  # parse_args calls it

  def parse_only(self, *given, **kwargs):
    _, rest = parse(self, *given, **kwargs)
    assert all(a.startswith('--config.') for a in rest), f'unknown: {rest}'
    raise _Parsed

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, 'argv', [module, *args])
    patch.setattr(argparse.ArgumentParser, 'parse_known_args', parse_only)
    with pytest.raises(_Parsed):
      runpy.run_module(module, run_name='__main__')


def check_requirement(name: str) -> None:
  """Looks whether pip would find a file, or the extras of our package."""
  package, _, extras = name.rstrip(']').partition('[')
  if name.endswith('.txt'):
    assert (ROOT / name).exists(), f'there is no {name}'
  elif package in ('.', 'str-jax', 'str_jax') and extras:
    unknown = {*extras.split(',')} - {*_extras()}
    assert not unknown, f'setup.py has no extra {", ".join(unknown)}'


def _extras():
  """Those of setup.py, which is run without setuptools."""
  import types

  seen = {}
  fake = types.SimpleNamespace(setup=seen.update, Extension=lambda *a, **k: a)
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(sys.modules, 'setuptools', fake)
    runpy.run_path(str(ROOT / 'setup.py'))
  return seen['extras_require']
