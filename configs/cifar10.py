"""ResNet-20 on CIFAR-10: ten epochs to look at, or the papers' full recipes.

python main.py --config=configs/cifar10.py:st3-90 --config.data_dir=DIR

`python -m str_jax prepare cifar10 --data_dir=DIR` gets the images. 5,000 of
the 50,000 training images are held out for validation.

Ten epochs, a demonstration (settings of our own, neither paper's), with the
test accuracy measured on JPEG re-encodings of the images, half an hour a run
on one busy core (benchmarks/results/cifar10.json):

  dense         82.49%
  str           s from -10, weights and thresholds decay by 1.7e-3:
                79.72% with 90.45% zeros
  st3           91% zeros: 80.64%
  st3-P, st3_sigma-P    P zeros in %: 80, 90, 95, 98 or 99
  gmp, dnw, feather     91% zeros; with a budget that a run has learned
                        (benchmarks/results/cifar10_transfer.md):

python -m str_jax report --budget=b.csv DIR
python main.py --config=configs/cifar10.py:gmp --config.method.budget=b.csv

The papers' recipes, ST-3's (WACV 2023, the authors' configs/cifar10.toml) and:

  dense-paper
  st3-P-paper, st3_sigma-P-paper
  feather-P-paper       Feather's (BMVC 2023), P zeros in %: 90, 95, 98 or 99
  imp           iterative magnitude pruning, a run of 160 epochs and ten more
                that each prune 20% of the weights left, to 89.26% zeros, the
                learning rate rewound to the start
  imp-weights   the same with the weights rewound to their values at step 2,000

160 epochs and 10 of fine-tuning, see configs/recipes.py; not run here at full
length.
"""

from configs import common, recipes

_IMP = recipes.CIFAR_PAPER | {
  'imp.rounds': 10,
  'imp.sparsity': 1 - 0.8**10,
}

VARIANTS = {
  'dense': {'method.name': 'dense'},
  'str': recipes.CIFAR_STR,
  **{
    name: recipes.CIFAR_PRUNING | {'method.name': name, 'method.sparsity': 0.91}
    for name in ('st3', 'gmp', 'feather')
  },
  'dnw': {'method.name': 'dnw', 'method.sparsity': 0.91},
  'imp': _IMP,
  'imp-weights': _IMP | {'imp.rewind_steps': 2000},
  **recipes.cifar_st3(),
  **recipes.cifar_feather(),
}


def get_config(variant: str | None = None) -> common.ConfigDict:
  config = recipes.cifar('cifar10', 'resnet20')
  return common.with_variant(config, variant, VARIANTS, default='str')
