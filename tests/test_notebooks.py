"""The notebooks as they stand; `pytest --nbmake notebooks` executes them."""

import ast
import importlib
import json
import pathlib
import re

import pytest

FOLDER = pathlib.Path(__file__).resolve().parent.parent / 'notebooks'
NAMES = ('budgets', 'deploy', 'quickstart', 'your_own_model')
KERNEL = {'display_name': 'Python 3', 'language': 'python', 'name': 'python3'}

every_notebook = pytest.mark.parametrize('name', NAMES)


def read(name):
  return json.loads((FOLDER / f'{name}.ipynb').read_text(encoding='utf-8'))


def programs(name):
  cells = read(name)['cells']
  return [''.join(c['source']) for c in cells if c['cell_type'] == 'code']


def dotted(node):
  """'a.b.c' of an attribute of an attribute of a name, else None."""
  if isinstance(node, ast.Name):
    return node.id
  if isinstance(node, ast.Attribute) and (inner := dotted(node.value)):
    return f'{inner}.{node.attr}'
  return None


def used(program):
  """The names of str_jax that a program imports or reads."""
  for node in ast.walk(ast.parse(program)):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield from (f'{node.module}.{alias.name}' for alias in node.names)
    elif isinstance(node, ast.Attribute) and (name := dotted(node)):
      yield name


def exists(name):
  """Whether a dotted name leads to something, modules on the way loaded."""
  package, *rest = name.split('.')
  found = importlib.import_module(package)
  for part in rest:
    if not hasattr(found, part):
      try:
        importlib.import_module(f'{found.__name__}.{part}')
      except (AttributeError, ImportError):
        return False
    found = getattr(found, part)
  return True


def test_every_notebook_is_known():
  assert tuple(sorted(path.stem for path in FOLDER.glob('*.ipynb'))) == NAMES


@every_notebook
def test_nothing_of_a_run_is_kept(name):
  notebook = read(name)
  assert (notebook['nbformat'], notebook['nbformat_minor']) == (4, 5)
  assert notebook['metadata']['kernelspec'] == KERNEL
  assert set(notebook['metadata']) <= {'kernelspec', 'language_info'}
  ids = [cell['id'] for cell in notebook['cells']]
  assert len(set(ids)) == len(ids)
  for cell in notebook['cells']:
    assert not cell['metadata']
    assert not cell.get('outputs') and not cell.get('execution_count')


@every_notebook
def test_the_first_cell_installs_on_colab_alone(name):
  first = programs(name)[0]
  assert first == programs(NAMES[0])[0]
  assert first.count('REPOSITORY = ') == 1
  *before, last = ast.parse(first).body
  assert all(isinstance(n, (ast.Import, ast.Assign)) for n in before)
  assert isinstance(last, ast.If) and not last.orelse
  assert ast.unparse(last.test) == "'google.colab' in sys.modules"


@every_notebook
def test_cells_are_python_and_use_what_there_is(name):
  names = {n for program in programs(name) for n in used(program)}
  ours = sorted(n for n in names if n.split('.')[0] == 'str_jax')
  assert ours
  assert [n for n in ours if not exists(n)] == []


def test_a_name_that_is_not_there_is_found():
  assert set(used('import str_jax.nn\nstr_jax.nn.Nope(1)')) >= {
    'str_jax.nn',
    'str_jax.nn.Nope',
  }
  assert exists('str_jax.nn.Dense') and exists('str_jax.training.loop.train')
  assert not exists('str_jax.nn.Nope') and not exists('str_jax.nope')


@every_notebook
def test_paths_are_of_any_machine(name):
  text = json.dumps(read(name))
  assert not re.search(r'/(work|tmp|root|home|content)/|\.\./shared', text)
  root = FOLDER.parent
  named = re.findall(r'(?:docs|configs)/\w+\.\w+', text)
  named += [f'notebooks/{n}' for n in re.findall(r'\w+\.ipynb', text)]
  assert [path for path in named if not (root / path).exists()] == []
