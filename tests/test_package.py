"""The package as a whole: what it loads, its floors, its surface, its docs."""

import ast
import itertools
import json
import operator
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

import str_jax
from str_jax.training import flags

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / 'str_jax'

# From the ground up: a part imports what stands before it, and never what
# stands after it.
FLOORS = (
  ('path_patterns', 'paths'),
  ('budgets', 'functional', 'limbs', 'lowering', 'quantile'),
  ('methods',),
  ('layout', 'variables', 'optim'),
  ('nn', 'calls', 'data_flow', 'report', 'nnx', 'flops'),
  ('models', 'data'),
  ('compaction', 'interop', 'inference'),
  ('training',),
  ('commands', '__main__'),
)
PARTS = list(itertools.chain(*FLOORS))
LIGHT = [p for p in itertools.chain(*FLOORS[:7]) if p != 'data']
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
# What else a part imports, where a user asks for what needs it.
ASKED_FOR = {
  'interop': {
    'flatbuffers',
    'jax2onnx',
    'ml_dtypes',
    'onnxruntime',
    'safetensors',
    'torch',
  },
  'inference': {'onnx', 'onnxruntime', 'torch'},
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
  'paths': ('matching', 'select'),
  'nnx': (
    'Conv',
    'ConvTranspose',
    'Linear',
    'LinearGeneral',
    'Einsum',
    'Sparse',
    'effective_model',
    'freeze',
    'sparsity_report',
    'to_variables',
    'update_thresholds',
  ),
  'flops': ('count', 'count_weightless', 'count_function', 'uses'),
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
  'compaction': ('ranks', 'compact', 'dead_filters'),
  'inference': ('build',),
  'interop.c_header': ('render',),
  'interop.dense_file': ('write', 'settings'),
  'interop.sparse_file': ('write', 'write_masks', 'rounding'),
  'interop.files': ('read',),
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
import str_jax, str_jax.nn, str_jax.nnx, str_jax.models, str_jax.compaction
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
  allowed = {'jax', 'numpy', 'flax', 'optax'} | ASKED_FOR.get(part, set())
  for path in files([part]):
    assert outside(path) <= allowed, path


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


def test_the_kernels_may_come_with_a_wheel(setup_arguments):
  (extension,) = setup_arguments['ext_modules']
  name, sources = extension
  assert name == 'str_jax.inference._kernels'
  assert all((ROOT / source).is_file() for source in sources)


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
