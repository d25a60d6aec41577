"""Every shell and Python block of the documents is run, small.

A page is walked from top to bottom in a folder of its own that sees main.py and
configs, in one Python namespace. bash says what its blocks start; that is then
run in this process, with networks, images and lengths made small. Blocks below
`<!-- not run: WHY -->`, and in README.md and CONTRIBUTING.md commands of
documents.NOT_RUN, are read and checked, and not run.
"""

import dataclasses
import functools
import hashlib
import importlib.util
import os
import re
import sys
import traceback

import documents
import jax
import jax.numpy as jnp
import pytest
import small_runs
from training import conftest as trained

import str_jax
from str_jax import __main__ as command_line
from str_jax.inference import comparison
from str_jax.interop import files
from str_jax.training import page, placement, stage, sweep_runs

ROOT = documents.ROOT
# tests/test_own_model.py runs its page, and looks at what comes out.
PAGES = ['README.md', 'CONTRIBUTING.md'] + sorted(
  str(path.relative_to(ROOT))
  for path in (ROOT / 'docs').rglob('*.md')
  if '```' in path.read_text(encoding='utf-8') and path.stem != 'own_model'
)
BY_FIRST_WORD = ('README.md', 'CONTRIBUTING.md')  # not run without a comment
# Packages that are no requirement: a command that lacks one must say so.
OPTIONAL = ('flatbuffers', 'jax2onnx', 'onnxruntime', 'torch')

# What a page takes for granted: commands that make it, or a function of here.
GIVEN = {
  **{
    f'runs/{name}-{variant}': (
      f'python main.py --config=configs/{name}.py:{variant}'
    )
    for name in ('digits', 'cifar10')
    for variant in ('dense', 'str', 'st3')
  },
  'runs/theirs': (
    'python -m str_jax import resnet50.pth.tar --arch=resnet50 '
    '--out=runs/theirs'
  ),
  'resnet50.pth': small_runs.checkpoint,
  'resnet50.pth.tar': small_runs.checkpoint,
  'PHOTOS': small_runs.photos,
  'DIR': small_runs.photos,
  'DOWNLOADS': small_runs.tars,
  'TARS': small_runs.tars,
}


class Walk:
  """A walk through a page: its folder, its namespace, what it printed."""

  def __init__(self, document, folder, environment, capsys):
    self.document = document
    self.folder = folder
    self.environment = environment
    self.namespace = {'__name__': 'page'}
    self.printed = ''
    self._capsys = capsys
    for name in ('main.py', 'configs', 'requirements.txt'):
      (folder / name).symlink_to(ROOT / name)

  def block(self, block):
    if block.language == 'python':
      self.python(block)
    elif block.language == 'bash':
      self.bash(block)

  def python(self, block):
    code = documents.compiled(block)
    if block.why is None:
      with jax.default_prng_impl('rbg'):  # half the time to compile
        self._watched(
          f'{block.document}:{block.line}', 'python', exec, code, self.namespace
        )

  def bash(self, block):
    found = documents.commands(block, self.folder, self.environment)
    for command in found:
      inner = documents.carried(command, self.folder, self.environment)
      for each in (command, *inner):
        self._watched(
          each.where, ' '.join(each.words), documents.check, each.words
        )
      cannot = command.words[0] in documents.NOT_RUN
      if cannot and block.why is None:
        assert self.document in BY_FIRST_WORD, (
          f'{command.where}: {command.words[0]} '
          f'{documents.NOT_RUN[command.words[0]]}: put <!-- not run: WHY --> '
          'on the line before the block, or a block of its own'
        )
      if block.why is None and not cannot:
        self.command(command.where, command.words)

  def command(self, where, words):
    if any(word.startswith('--num_processes=') for word in words):
      return  # 25 s of compiling; tests/training/test_distributed.py has them
    for word in words:
      if not word.startswith(('--out=', '--workdir=')):
        self._give(where, word.partition('=')[2] or word)
    if words[:2] == ('python', 'main.py'):
      run, args = small_runs.run_main, (words[1:],)
    elif words[:3] == ('python', '-m', 'str_jax'):
      run, args = command_line.main, ([*words[3:]],)
    else:  # the tests and the benchmarks: too long, and checked above
      return
    self._watched(where, ' '.join(words), run, *args)

  def _give(self, where, name):
    if name not in GIVEN or (self.folder / name).exists():
      return
    if callable(GIVEN[name]):
      GIVEN[name](self.folder / name)
    else:
      self.command(f'{where} (given: {name})', tuple(GIVEN[name].split()))

  def _watched(self, where, what, run, *args):
    self._capsys.readouterr()
    error = None
    try:
      run(*args)
    except (Exception, SystemExit, pytest.fail.Exception) as raised:
      error = raised
      trace = traceback.format_exc()
    out, err = self._capsys.readouterr()
    self.printed += out
    if error is None or (isinstance(error, SystemExit) and not error.code):
      return
    lacks = [
      name
      for name in OPTIONAL
      if name in err and importlib.util.find_spec(name) is None
    ]
    if isinstance(error, SystemExit) and lacks:
      return  # one sentence, which names it
    told = '' if isinstance(error, SystemExit) else trace
    pytest.fail(f'{where}: {what}\n{out}{err}{told}{error!r}', pytrace=False)


@pytest.fixture(scope='module')
def archive():
  """A small archive of CIFAR-10, in the place of the one to download."""
  import numpy as np
  from commands import test_prepare

  content, _ = test_prepare.cifar10_files(np.random.default_rng(0))
  pickles = {k: test_prepare.python2_pickle(v) for k, v in content.items()}
  return test_prepare.tar_gz('cifar-10-batches-py', pickles)


@pytest.fixture
def walk(tmp_path, monkeypatch, capsys, archive):
  """Walks a page, small."""
  from str_jax.commands import prepare

  small_runs.shrink(monkeypatch)
  create = functools.partial(placement.create, devices=jax.devices()[:1])
  monkeypatch.setattr(placement, 'create', create)
  monkeypatch.setattr(stage, 'create', trained._shared_create)
  monkeypatch.setattr(sweep_runs, '_train', small_runs.train_in_sweep)
  monkeypatch.setattr(page, 'write', lambda directory: directory)
  monkeypatch.setattr(os, 'cpu_count', lambda: 1)
  monkeypatch.setattr(comparison, '_LEAST_SECONDS', 0)  # a call is enough
  monkeypatch.setattr(comparison, '_PAUSE_SECONDS', 0)
  # What --threads sets would hold for all the tests that follow.
  monkeypatch.setattr(os, 'sched_setaffinity', lambda *_: None, raising=False)
  if importlib.util.find_spec('torch') is None:  # its files hold safetensors
    monkeypatch.setattr(files, '_is_safe', lambda path: True)
  (tmp_path / 'tfds' / 'downloads').mkdir(parents=True)
  (tmp_path / 'tfds/downloads/cifar-10-python.tar.gz').write_bytes(archive)
  monkeypatch.setitem(
    prepare._ARCHIVES,
    'cifar10',
    dataclasses.replace(
      prepare._ARCHIVES['cifar10'], md5=hashlib.md5(archive).hexdigest()
    ),
  )
  environment = {'TFDS_DATA_DIR': str(tmp_path / 'tfds')}
  monkeypatch.setenv('TFDS_DATA_DIR', environment['TFDS_DATA_DIR'])
  (tmp_path / 'page').mkdir()
  monkeypatch.chdir(tmp_path / 'page')
  monkeypatch.setattr(sys, 'argv', ['page'])
  monkeypatch.setattr(sys, 'unraisablehook', sys.unraisablehook)

  def walk(document):
    walk = Walk(document, tmp_path / 'page', environment, capsys)
    found = documents.blocks(document)
    shell = '\n'.join(
      b.text for b in found if b.language == 'bash' and not b.why
    )
    wanted = re.search(r'configs/(?!digits|fastgrnn)|runs/(?!digits)', shell)
    if wanted and 'str_jax prepare' not in shell:  # which makes data sets
      small_runs.tars(tmp_path / 'tars')
      out = environment['TFDS_DATA_DIR']
      command_line.main(['prepare', 'cifar10'])
      command_line.main(
        ['prepare', 'imagenet', f'--tars={tmp_path / "tars"}', f'--out={out}']
      )
    for block in found:
      walk.block(block)
    return walk

  return walk


@pytest.mark.parametrize('document', PAGES)
def test_the_blocks_of_a_page_run(document, walk):
  walked = walk(document)
  if document == 'README.md':
    first, *_ = re.findall(r'\| total .* ([\d.]+)%', walked.printed)
    assert float(first) == pytest.approx(90, abs=0.1)
    assert jnp.isfinite(walked.namespace['loss'])
    report = str_jax.report.sparsity_report(None, walked.namespace['final'])
    # To a weight of the small network.
    assert report.sparsity == pytest.approx(0.9, abs=1 / report.weights)
