"""The programs and commands in the documents run."""

import itertools
import pathlib
import re
import shlex

import jax
import jax.numpy as jnp
import pytest
from flax import linen

import str_jax
from str_jax import __main__ as command_line
from str_jax.training import flags

ROOT = pathlib.Path(__file__).parent.parent


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
