"""Says before training what STR will do, and after it what a run lacks."""

import argparse
import pathlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from str_jax.training.forecast import Forecast
  from str_jax.training.plan import Plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the command's arguments."""
  parser.add_argument(
    'directory',
    type=pathlib.Path,
    nargs='?',
    help='folder of a run that was trained',
  )
  parser.add_argument(
    '--config',
    metavar='FILE[:VARIANT]',
    help='config of a run to come, as main.py takes it; '
    '--config.FIELD=VALUE sets a field',
  )
  parser.add_argument(
    '--checkpoint',
    default='last',
    help="of the run: 'last', 'best' on validation, or a step (default: last)",
  )
  parser.add_argument('--data_dir', help='where TFDS sets lie')
  parser.set_defaults(overrides=[])  # main fills them in


def run(args: argparse.Namespace) -> None:
  """Prints what is to be said of a run, or of a config.

  Raises:
    FileNotFoundError: no run there, or its data set is not on this machine.
    ValueError: neither or both are given, or a config that cannot be used.
  """
  if (args.directory is None) == (args.config is None):
    both = args.directory is not None
    raise ValueError(
      'doctor looks at a run, by its folder DIR, or at a config, by '
      f'--config=FILE:VARIANT: give one of them, got '
      f'{f"{args.directory} and {args.config}" if both else "neither"}.'
    )
  if args.directory is None:
    where = (
      [] if args.data_dir is None else [f'--config.data_dir={args.data_dir}']
    )
    _before(args.config, [*args.overrides, *where])
    return
  if args.overrides:
    raise ValueError(
      f'{args.overrides[0]} sets a field of a --config, but '
      f'{args.directory} has a config of its own: leave it out.'
    )
  from absl import logging

  from str_jax.training import checkup, compilation_cache

  logging.set_verbosity(logging.WARNING)  # Orbax tells of every file
  compilation_cache.enable()
  checkup.run(args.directory, args.checkpoint, args.data_dir)


def _before(spec: str, overrides: list[str]) -> None:
  """Prints the forecast for a config."""
  from str_jax.training import build, flags, forecast, refusal, setup
  from str_jax.training import plan as plans

  config, changes = flags.load_config(spec, overrides)
  dataset = setup.dataset(config)
  with refusal.told(spec, changes):
    plan = plans.create(
      config,
      dataset.size('train'),
      build.Inputs(dataset.image_shape, dataset.num_classes),
    )
  found = forecast.create(config, plan)
  if found is None:
    print(_nothing(config, plan))
    return
  _show(found)
  if config.init_from:
    print(
      f'init_from={config.init_from}: if that is a run of the same STR, s goes '
      'on from its thresholds, and not from method.init_value.'
    )


def _show(forecast: 'Forecast') -> None:
  import jax.numpy as jnp

  from str_jax.methods.str import THRESHOLD_FUNCTIONS
  from str_jax.training import forecast as forecasts

  f = forecast
  print(
    'what decay alone makes of s; once thresholds reach weights, the loss '
    'moves it too'
  )
  print('training       step            s   threshold')
  for percent in range(0, 101, 20):
    step = round(percent / 100 * f.steps)
    s = jnp.float32(f.course[step])
    size = f.method.slope * float(THRESHOLD_FUNCTIONS[f.method.g](s))
    print(f'{percent:7}% {step:10,} {float(s):12.5g} {size:11.2g}')
  for what, threshold in (
    ('leave zero', forecasts.LEAVES_ZERO),
    ('reach weights', forecasts.REACHES_WEIGHTS),
  ):
    if f.is_of_filters and threshold == forecasts.REACHES_WEIGHTS:
      continue  # norms, which training alone shows
    first = f.first(threshold)
    when = 'never' if first is None else f'at {forecasts.when(f, first)}'
    print(f'thresholds {what}, s = {f.level(threshold):.3g}: {when}')
  print(f'{f.verdict}: {forecasts.outlook(f)}')
  print(f'{forecasts.advice(f)}.')


def _nothing(config: Any, plan: 'Plan') -> str:
  """Why there is nothing to forecast."""
  method: Any = plan.phases[0].method
  name = config.method.name
  target = getattr(method, 'target', None)
  asked = method if target is None else target
  share = getattr(asked, 'sparsity', None)
  if share is not None:
    goal = f'{100 * share:.6g}% zeros'
  else:
    goal = 'the zeros of its budget' if target is None else str(target)
  if config.imp.rounds:
    what = f'imp prunes in {config.imp.rounds} rounds'
  elif method is None:
    what = 'dense has no thresholds'
  elif name == 'frozen':
    what = 'frozen keeps the zeros that it starts from'
  elif hasattr(method, 'end_step'):
    what = (
      f'{name} reaches {goal} between steps {method.start_step:,} and '
      f'{method.final_step:,} of {plan.total_steps:,}, as asked for'
    )
  else:
    what = f'{name} has {goal} from the start'
  return f'nothing to forecast: {what}.'
