"""Trains, evaluates and reports a sparse network.

python main.py --config=configs/digits.py [--workdir=DIR] [--config.field=value]
"""

from absl import app, flags

from str_jax.training import console, cpu
from str_jax.training import flags as training_flags

training_flags.define()


def main(argv: list[str]) -> None:
  f = flags.FLAGS
  processes = (f.coordinator, f.num_processes, f.process_index)
  training_flags.run(f.config, argv[1:], f.workdir, processes)


if __name__ == '__main__':
  cpu.use_huge_pages()
  console.outlive_terminal()
  app.run(main, flags_parser=training_flags.parse)
