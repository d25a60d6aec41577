"""What the library does with files of strangers."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parent.parent

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
