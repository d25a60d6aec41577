"""Trains, evaluates and reports a sparse network.

python main.py --config=configs/digits.py [--workdir=DIR] [--config.field=value]
"""

from absl import app, flags

from str_jax.training import flags as training_flags

CONFIG = training_flags.define()


def main(argv: list[str]) -> None:
  del argv
  training_flags.run(CONFIG.value, flags.FLAGS.workdir)


if __name__ == '__main__':
  app.run(main, flags_parser=training_flags.parse)
