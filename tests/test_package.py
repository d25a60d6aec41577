"""The package as a whole: what it loads, its floors, its surface, its docs."""

import ast
import itertools
import json
import operator
import pathlib
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
import types

import jax
import jax.numpy as jnp
import pytest
from flax import linen

import str_jax
from str_jax import __main__ as command_line
from str_jax.training import flags

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / 'str_jax'

# From the ground up: a part imports what stands before it, and never what
# stands after it.
FLOORS = (
  ('budgets', 'functional', 'limbs', 'lowering', 'paths', 'quantile'),
  ('methods',),
  ('variables', 'optim'),
  ('nn', 'flops', 'report'),
  ('models', 'data'),
  ('compaction', 'interop'),
  ('training',),
  ('commands', '__main__'),
)
PARTS = list(itertools.chain(*FLOORS))
LIGHT = [p for p in itertools.chain(*FLOORS[:6]) if p != 'data']
HEAVY = {
  'grain',
  'orbax',
  'tensorflow_datasets',
  'tensorflow',
  'array_record',
  'ml_collections',
  'matplotlib',
  'torch',
  'cv2',
  'sklearn',
}
# The public surface that needs no file and no device: each shows its use.
SURFACE = {
  'functional': ('soft_threshold', 'hard_threshold', 'straight_through'),
  'methods': ('create', 'names', 'STR', 'ST3', 'Frozen'),
  'variables': (
    'add_thresholds',
    'effective_params',
    'update_thresholds',
    'freeze',
  ),
  'optim': ('decay',),
  'nn': ('Conv', 'ConvTranspose', 'Dense', 'DenseGeneral'),
  'flops': ('count',),
  'report': ('sparsity_report',),
  'budgets': (
    'uniform',
    'erk',
    'from_report',
    'read_csv',
    'write_csv',
    'load_published',
    'resolve',
  ),
  'models': ('create', 'names'),
  'compaction': ('ranks', 'compact'),
  'interop.torch': ('from_state_dict', 'to_state_dict', 'BatchNorm'),
}


def part_of(path):
  """functional.py and methods/str.py: the parts functional and methods."""
  return path.relative_to(PACKAGE).parts[0].removesuffix('.py')


def files(parts):
  return [p for p in sorted(PACKAGE.rglob('*.py')) if part_of(p) in parts]


def imports(path):
  """Full names of what a file imports, wherever in it."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f'{path} has a relative import'
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def inside(path):
  """The parts of this package that a file imports."""
  names = [name.split('.') for name in imports(path)]
  # A bare `import str_jax` reaches the whole public surface, up to the models.
  return {(*name, 'models')[1] for name in names if name[0] == 'str_jax'}


def outside(path):
  """What a file imports that is neither Python's own nor this package's."""
  roots = {name.partition('.')[0] for name in imports(path)}
  return roots - set(sys.stdlib_module_names) - {'str_jax'}


def test_importing_it_is_light():
  code = f"""
import json, sys, time
import jax, flax.linen, optax
before = set(sys.modules)
start = time.perf_counter()
import str_jax, str_jax.nn, str_jax.models, str_jax.compaction
seconds = time.perf_counter() - start
for name in str_jax.__all__:
  getattr(str_jax, name)
loaded = {{name.partition('.')[0] for name in set(sys.modules) - before}}
print(json.dumps([seconds, sorted(loaded & {HEAVY!r})]))
"""
  output = subprocess.check_output([sys.executable, '-c', code], cwd=ROOT)
  seconds, heavy = json.loads(output)
  assert heavy == []
  assert seconds < 0.5


def test_every_file_stands_on_a_floor():
  assert {part_of(p) for p in PACKAGE.rglob('*.py')} - {'__init__'} <= {*PARTS}


@pytest.mark.parametrize('part', PARTS)
def test_imports_go_downwards(part):
  for path in files([part]):
    assert inside(path) <= {*PARTS[: PARTS.index(part) + 1]}, path
    assert 'configs' not in outside(path), path


@pytest.mark.parametrize('part', LIGHT)
def test_the_library_imports_jax_flax_and_optax_alone(part):
  for path in files([part]):
    assert outside(path) <= {'jax', 'numpy', 'flax', 'optax'}, path


def test_data_imports_no_jax():
  for path in files(['data']):
    assert inside(path) <= {'data'}, path
    assert not outside(path) & {'jax', 'flax', 'optax', 'orbax'}, path


def test_main_has_flags_and_the_trainer_alone():
  assert {name.rpartition('.')[0] for name in imports(ROOT / 'main.py')} == {
    'absl',
    'str_jax.training',
  }


def test_the_version_stands_in_both_places():
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  assert str_jax.__version__ == project['version']
  assert f'## {str_jax.__version__}' in (ROOT / 'CHANGELOG.md').read_text()


@pytest.fixture
def setup_arguments(monkeypatch):
  """What setup.py passes to setuptools, which need not be installed."""
  seen = {}
  fake = types.SimpleNamespace(setup=seen.update)
  monkeypatch.setitem(sys.modules, 'setuptools', fake)
  runpy.run_path(str(ROOT / 'setup.py'))
  return seen


def test_the_extras_are_the_requirements_files(setup_arguments):

  def lines(name):
    text = re.sub(r'\s*#.*', '', (ROOT / name).read_text())
    return [line for line in text.splitlines() if line]

  train, (first, *dev) = (
    lines('requirements.txt'),
    lines('requirements-dev.txt'),
  )
  assert first == '-r requirements.txt'
  extras = setup_arguments['extras_require']
  assert extras['train'] == train
  assert extras['dev'] == train + dev
  assert [
    re.match(r'\w+', line).group()
    for line in setup_arguments['install_requires']
  ] == [
    'jax',
    'flax',
    'optax',
  ]


@pytest.mark.parametrize(
  'path',
  files([*LIGHT, 'data']),
  ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_what_is_public_has_a_docstring(path):
  tree = ast.parse(path.read_text())
  assert ast.get_docstring(tree)
  for node in tree.body:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
      private = node.name.startswith('_')
      assert private or ast.get_docstring(node), node.name


@pytest.mark.parametrize('module', SURFACE)
def test_the_public_surface_shows_its_use(module):
  for name in SURFACE[module]:
    doc = operator.attrgetter(f'{module}.{name}')(str_jax).__doc__
    assert '>>> ' in doc, name


def blocks(document, language):
  text = (ROOT / document).read_text()
  return re.findall(rf'```{language}\n(.*?)```', text, re.DOTALL)


def commands(document):
  yield from commands_in(''.join(blocks(document, 'bash')))


def commands_in(text):
  """All of a script, also those that a cluster's own commands carry."""
  for line in text.splitlines():
    words = shlex.shlex(line, posix=True, punctuation_chars='&')
    words.whitespace_split = True
    for is_and, command in itertools.groupby(words, lambda w: set(w) == {'&'}):
      command = list(command)
      if command[0] in ('gcloud', 'sbatch'):
        yield from commands_in(command[-1].partition('=')[2])
      elif not is_and:
        yield command[command[0] == 'srun' :]


def test_the_python_of_the_readme_runs(capsys):
  namespace = {'__name__': 'readme'}
  with jax.default_prng_impl('rbg'):  # half the time to compile
    for block in blocks('README.md', 'python'):
      exec(compile(block, 'README.md', 'exec'), namespace)
  (total,) = re.findall(r'\| total .* ([\d.]+)%', capsys.readouterr().out)
  assert float(total) == pytest.approx(90, abs=0.1)
  assert jnp.isfinite(namespace['loss'])
  report = str_jax.report.sparsity_report(None, namespace['final'])
  assert report.sparsity == pytest.approx(0.9, abs=1e-4)


def test_the_method_in_contributing_keeps_the_laws(assert_trees_equal):
  namespace = {'__name__': 'contributing'}
  (block,) = blocks('CONTRIBUTING.md', 'python')
  exec(compile(block, 'CONTRIBUTING.md', 'exec'), namespace)
  method, x = namespace['Fixed'](), jnp.eye(3)
  sparse, dense = str_jax.nn.Dense(4, method=method), linen.Dense(4)
  variables = sparse.init(jax.random.key(0), x)
  added = str_jax.add_thresholds(method, dense.init(jax.random.key(0), x))
  assert_trees_equal(variables, added)
  params = str_jax.effective_params(method, variables)
  assert (params['kernel'] == 0).any()
  assert_trees_equal(
    sparse.apply(variables, x), dense.apply({'params': params}, x)
  )


MAIN_FLAGS = {
  *('--config', '--workdir'),
  *('--coordinator', '--num_processes', '--process_index'),
}


@pytest.mark.parametrize('document', ['README.md', 'CONTRIBUTING.md'])
def test_commands_name_what_exists(document, setup_arguments):
  for command in commands(document):
    match command:
      case ['python', 'main.py', *args]:
        spec, *overrides = [a for a in args if a.startswith('--config')]
        others = {a.partition('=')[0] for a in args if a not in overrides}
        assert others <= MAIN_FLAGS
        flags.load_config(spec.removeprefix('--config='), overrides)
      case ['python', '-m', 'str_jax', *args]:
        command_line.parse(args)
      case ['pip', 'install', '-r', name]:
        assert (ROOT / name).exists()
      case ['pip', 'install', '-e', target]:
        extras = target.removeprefix('.[').removesuffix(']').split(',')
        assert {*extras} <= {*setup_arguments['extras_require']}
      case ['export' | 'cd', _, *_]:
        pass
      case ['python', '-m', 'pytest'] | ['mypy'] | ['ruff' | 'pre-commit', *_]:
        pass
      case [_, *_]:
        pytest.fail(f'a command of another kind: {command}')


def test_the_readmes_table_of_configs():
  rows = re.findall(r'^\| `configs/.*', (ROOT / 'README.md').read_text(), re.M)
  listed = set()
  for row in rows:
    path, *variants = re.findall('`(.*?)`', row)
    listed.add(path)
    for variant in variants:
      flags.load_config(f'{path}:{variant}')
  assert listed == {
    str(path.relative_to(ROOT))
    for path in (ROOT / 'configs').glob('*.py')
    if 'def get_config(variant' in path.read_text()
  }


def test_ci_runs_the_commands_of_the_readme():
  script = (ROOT / '.ci/run').read_text()
  for command in (
    'pip install -r requirements-dev.txt',
    'python -m pytest',
    'python main.py --config=configs/digits.py',
  ):
    assert command in (ROOT / 'README.md').read_text()
    assert command in script


# What runs code that stands in a file, by the name that it is called by.
RUNS_CODE = {
  *('pickle.load', 'pickle.loads', 'cloudpickle.load', 'cloudpickle.loads'),
  *('joblib.load', 'marshal.load', 'marshal.loads', 'shelve.open'),
  *('yaml.load', 'torch.load', 'eval', 'exec', 'os.system', 'os.popen'),
  *('tar.extract', 'tar.extractall', 'shutil.unpack_archive'),
}


def test_no_file_of_a_stranger_runs_code():
  """Checkpoints, budgets, images and tars are data; a config is a program."""
  found = set()
  for path in sorted((ROOT / 'str_jax').rglob('*.py')):
    for node in ast.walk(ast.parse(path.read_text())):
      if not isinstance(node, ast.Call):
        continue
      name = ast.unparse(node.func)
      options = {k.arg: ast.unparse(k.value) for k in node.keywords}
      safe_torch = (
        name == 'torch.load' and options.get('weights_only') == 'True'
      )
      if name in RUNS_CODE and not safe_torch:
        found.add((path.name, name))
      if options.get('allow_pickle') == 'True':
        found.add((path.name, 'allow_pickle'))
  assert not found
