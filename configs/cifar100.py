"""WideResNet-34-2 on CIFAR-100: ten epochs, or the full recipe of ST-3.

python main.py --config=configs/cifar100.py:st3-90 --config.data_dir=DIR

`python -m str_jax prepare cifar100 --data_dir=DIR` gets the images. 5,000 of
the 50,000 training images are held out for validation. The network has 1.86
million weights and costs 271 million multiply-adds an image, nearly seven
times ResNet-20. In training, dropout takes 0.2 of the channels within each
of its blocks; --config.model.dropout=0 takes none.

Ten epochs, settings of our own, those of configs/cifar10.py:

  dense
  str           s from -10, weights and thresholds decay by 1.7e-3
  st3           90% zeros
  st3-P, st3_sigma-P    P zeros in %: 80, 90, 95, 98 or 99

The recipe of ST-3 (WACV 2023, the authors' released configs/cifar100.toml;
configs/recipes.py says what is in it), 160 epochs and 10 of fine-tuning:

  dense-paper
  st3-P-paper, st3_sigma-P-paper
  feather-P-paper       Feather's (BMVC 2023), P zeros in %: 90, 95, 98 or 99

Pixels get CIFAR-100's own mean and deviation, where that file has CIFAR-10's.
No accuracy of these was measured here, and the authors' release states none.
"""

from configs import common, recipes

VARIANTS = {
  'dense': {'method.name': 'dense'},
  'str': recipes.CIFAR_STR,
  'st3': recipes.CIFAR_PRUNING | {'method.name': 'st3', 'method.sparsity': 0.9},
  **recipes.cifar_st3(),
  **recipes.cifar_feather(),
}


def get_config(variant: str | None = None) -> common.ConfigDict:
  config = recipes.cifar('cifar100', 'wrn_34_2')
  return common.with_variant(config, variant, VARIANTS, default='str')
