"""The configs: every variant is built, and holds what the papers say."""

import importlib
import pathlib
import re

import jax
import pytest
from ml_collections import ConfigDict

import main
from benchmarks import flops as benchmark
from str_jax.paths import is_kernel, named_leaves
from str_jax.training import build, flags, state
from str_jax.training import plan as plans

ROOT = pathlib.Path(main.__file__).parent
NAMES = sorted(
  path.stem
  for path in (ROOT / 'configs').glob('*.py')
  if 'def get_config(variant' in path.read_text()
)
MODULES = {name: importlib.import_module(f'configs.{name}') for name in NAMES}

# Images to train on, classes and image shape, so that no data are needed.
SETS = {
  'digits': (1_197, 10, (8, 8, 1)),
  'cifar10': (45_000, 10, (32, 32, 3)),
  'cifar100': (45_000, 100, (32, 32, 3)),
  'imagenet2012': (1_281_167, 1000, (224, 224, 3)),
  'har2': (7_352, 2, (128, 1, 9)),
  'google12': (85_511, 12, (99, 1, 32)),
  'imagefolder': (10_000, 100, (224, 224, 3)),
  'fake': (10_000, 1000, (224, 224, 3)),
}

# sparsity %, weight decay x 1e5, s at the start
STR_RESNET50 = """
  79.55  1.7          -3200
  81.27  1.751757813  -3200
  87.70  2.051757813  -3200
  90.23  2.251757813  -3200
  90.55  2.051757813  -800
  94.80  3.051757813  -3200
  95.03  3.351757813  -12800
  95.15  3.051757813  -1600
  96.11  3.051757813  -100
  96.53  4.051757813  -12800
  97.78  5.217578125  -12800
  98.05  5.651757813  -12800
  98.22  6.051757813  -12800
  98.79  7.551757813  -12800
  98.98  8.551757813  -12800
  99.10  9.051757813  -12800
"""
# and top-1 %, multiply-adds (M)
STR_MOBILENET_V1 = """
  75.28  1.551757813  -100    68.35  101
  79.07  1.551757813  -25     66.52  81
  85.80  3.051757813  -3200   64.83  55
  89.01  3.751757813  -12800  62.10  42
  89.62  3.751757813  -3200   61.51  40
"""
# sparsity %, then top-1 and multiply-adds of ST-3 and of ST-3 sigma
ST3_RESNET50 = """
  80    76.95  1215  76.44  739
  90    76.03  764   75.28  397
  95    74.46  436   73.69  219
  96.5  73.31  351   72.62  167
  98    70.46  220   69.75  116
  99    63.88  120   63.25  69
"""
STR_RECIPE = {
  'batch_size': 256,
  'total_epochs': 100.0,
  'label_smoothing': 0.1,
  'augment': 'random_resized_crop',
  'validation': 0,
  'model.init': 'fan_in',
  'model.classifier_bias': False,
  'model.dtype': 'float32',
  'optimizer.name': 'sgd',
  'optimizer.momentum': 0.875,
  'optimizer.nesterov': False,
  'optimizer.coupled': True,
  'optimizer.clip_norm': None,
  'optimizer.threshold_decay': None,  # the weights' own
  'schedule.name': 'cosine',
  'schedule.hold': 'epoch',
  'schedule.learning_rate': 0.256,
  'schedule.warmup_epochs': 5.0,
}
ST3_RECIPE = STR_RECIPE | {
  'batch_size': 512,
  'model.dtype': 'bfloat16',
  'optimizer.clip_norm': 3.0,
  'optimizer.weight_decay': 5e-5,
  'optimizer.norm_decay': None,
  'schedule.learning_rate': 0.2,
  'method.start_epochs': 5.0,
  'method.end_epochs': 50.0,
  'method.finetune_epochs': None,
}
ST3_CIFAR_RECIPE = {
  'batch_size': 128,
  'total_epochs': 160.0,
  'validation': 5000,
  'label_smoothing': 0.0,
  'model.norm_momentum': 0.99,
  'optimizer.name': 'sgd',
  'optimizer.momentum': 0.9,
  'optimizer.weight_decay': 1e-4,
  'optimizer.norm_decay': None,
  'optimizer.clip_norm': 3.0,
  'schedule.name': 'multistep',
  'schedule.learning_rate': 0.1,
  'schedule.boundaries_epochs': (80.0, 120.0),
  'schedule.factor': 0.1,
  'schedule.warmup_epochs': 0.0,
  'method.start_epochs': 5.0,
  'method.end_epochs': 80.0,
  'method.finetune_epochs': 10.0,
}


def every_variant():
  return [
    (name, variant) for name in NAMES for variant in MODULES[name].VARIANTS
  ]


def rows(table):
  return [line.split() for line in table.strip().splitlines()]


def with_figures(table):
  """Rows of ResNet50 with the paper's top-1 and multiply-adds behind them."""
  figures = benchmark.figures()
  papers = [figures[f'str-resnet50-{row[0]}'] for row in rows(table)]
  return [
    (*row, f'{paper["top1"]:.2f}', f'{paper["mflops"]:.0f}')
    for row, paper in zip(rows(table), papers)
  ]


def fields(config, prefix=''):
  """All fields by dotted name."""
  found = {}
  for name, value in config.items():
    if isinstance(value, ConfigDict):
      found |= fields(value, f'{prefix}{name}.')
    else:
      found[prefix + name] = value
  return found


def is_number(value):
  return isinstance(value, int | float) and not isinstance(value, bool)


@pytest.fixture(scope='module')
def traced():
  """From what variants have in common to the leaves of their variables."""
  return {}


@pytest.mark.parametrize('name, variant', every_variant())
def test_every_variant_is_built(name, variant, traced):
  config = MODULES[name].get_config(variant)
  assert config.is_locked
  assert (config.name, config.variant) == (name, variant)
  train_size, num_classes, image_shape = SETS[config.dataset]
  plan = plans.create(config, train_size)
  assert 0 <= plan.settled_step <= plan.total_steps
  assert float(plan.learning_rate(0)) > 0
  for phase in plan.phases:
    model = build.model(config, num_classes, phase.method)
    tx = plans.optimizer(config, plan, phase)
    # Variants that differ in numbers alone have variables of the same shapes.
    words = {k: v for k, v in fields(config).items() if not is_number(v)}
    del words['variant']
    alike = (str(words), str(config.model), type(phase.method))
    if alike not in traced:
      abstract = jax.eval_shape(
        lambda seed, model=model, tx=tx: state.create(
          model, tx, image_shape, seed
        ),
        config.seed,
      )
      traced[alike] = named_leaves(abstract.variables)
    leaves = traced[alike]
    thresholds = [path for path in leaves if path[-1] == 'kernel_threshold']
    kernels = [path for path, w in leaves.items() if is_kernel(path, w)]
    if config.model.name == 'fastgrnn':  # its classifier is dense
      kernels.remove(('params', 'classifier', 'kernel'))
    sparse = phase.method is not None and phase.start == 0
    # A target's are two: the share that is learned, and the one for all.
    each = 1 if getattr(phase.method, 'target', None) is None else 2
    assert len(thresholds) == (each * len(kernels) if sparse else 0)


def test_the_default_variant():
  for module in MODULES.values():
    assert module.get_config().variant in module.VARIANTS
    assert module.get_config('').variant == module.get_config().variant


@pytest.mark.parametrize('name', NAMES)
def test_docstrings_hold_a_command_that_works(name):
  commands = re.findall(
    r'^python main.py --config=(\S+)(.*)', MODULES[name].__doc__, re.MULTILINE
  )
  assert commands
  for spec, rest in commands:
    assert spec.startswith(f'configs/{name}.py')
    overrides = [a for a in rest.split() if not a.startswith('--workdir')]
    flags.load_config(str(ROOT / spec), overrides)


@pytest.mark.parametrize(
  'name, table, dense',
  [
    ('resnet50', with_figures(STR_RESNET50), (3.0517578125e-5, '77.01 +4.09G')),
    ('mobilenet_v1', rows(STR_MOBILENET_V1), (3.0517578e-5, '71.95 +569M')),
  ],
)
def test_every_row_of_str_is_a_variant(name, table, dense):
  module = MODULES[name]
  expected = {
    f'str-{sparsity}': (float(f'{decay}e-5'), float(s), rf'{top1} +{flops}M')
    for sparsity, decay, s, top1, flops in table
  }
  expected['dense'] = (dense[0], None, dense[1])
  found = [v for v in module.VARIANTS if v == 'dense' or v.startswith('str-')]
  assert set(found) == set(expected)
  for variant, (decay, init_value, figures) in expected.items():
    config = module.get_config(variant)
    assert fields(config).items() >= STR_RECIPE.items()
    assert config.optimizer.weight_decay == pytest.approx(decay, rel=1e-12)
    assert config.optimizer.norm_decay == config.optimizer.weight_decay
    assert config.method.init_value == init_value
    assert config.method.name == variant.split('-')[0]
    assert re.search(rf'{variant} +{figures}\b', module.__doc__)


def test_every_row_of_st3_is_a_variant():
  module = MODULES['resnet50']
  expected = {}
  for sparsity, top1, flops, top1_sigma, flops_sigma in rows(ST3_RESNET50):
    expected[f'st3-{sparsity}'] = (top1, flops)
    expected[f'st3_sigma-{sparsity}'] = (top1_sigma, flops_sigma)
  found = {v for v in module.VARIANTS if v.startswith('st3')}
  assert found == {
    *expected,
    *(f'{v}-rewind' for v in expected if v.startswith('st3-')),
    'st3-dense',
  }
  for variant, (top1, flops) in expected.items():
    config = module.get_config(variant)
    method, sparsity = variant.split('-')
    assert fields(config).items() >= ST3_RECIPE.items()
    assert config.method.name == method
    assert config.method.sparsity == pytest.approx(float(sparsity) / 100)
    assert re.search(rf'{variant} +{top1} +{flops}M', module.__doc__)
    if method == 'st3_sigma':
      continue
    again = module.get_config(f'{variant}-rewind')
    plan = plans.create(again, SETS['imagenet2012'][0])
    assert [p.stop for p in plan.phases] == [250_300, 500_600]
    assert fields(again).items() - fields(config).items() == {
      ('variant', f'{variant}-rewind'),
      ('method.rewind_epochs', 0.0),
    }
  dense = module.get_config('st3-dense')
  pruning = {k for k in ST3_RECIPE if k.startswith('method.')}
  recipe = {k: v for k, v in ST3_RECIPE.items() if k not in pruning}
  assert fields(dense).items() >= recipe.items()
  assert dense.method.name == 'dense'
  assert re.search(r'st3-dense +77\.10 +4089M', module.__doc__)


@pytest.mark.parametrize(
  'name, model', [('cifar10', 'resnet20'), ('cifar100', 'wrn_34_2')]
)
def test_cifar_has_the_short_and_the_full_recipe(name, model):
  module = MODULES[name]
  for method in ('st3', 'st3_sigma'):
    for percent in (80, 90, 95, 98, 99):
      short = module.get_config(f'{method}-{percent}')
      paper = module.get_config(f'{method}-{percent}-paper')
      assert fields(paper).items() >= ST3_CIFAR_RECIPE.items()
      assert (short.total_epochs, short.method.finetune_epochs) == (10, None)
      for config in (short, paper):
        assert config.method.name == method
        assert config.method.sparsity == pytest.approx(percent / 100)
        assert (config.dataset, config.model.name) == (name, model)


def test_cifar100_trains_with_dropout():
  config = MODULES['cifar100'].get_config()
  assert build.model(config, 100, None).dropout == 0.2
  config.model.dropout = 0.0
  assert build.model(config, 100, None).dropout == 0.0


def test_cifar100_takes_another_network():
  config, _ = flags.load_config(
    str(ROOT / 'configs/cifar100.py'), ['--config.model.name=vgg16']
  )
  assert len(build.model(config, 100, None).stage_sizes) == 5
