"""ResNet-18 on ImageNet-1K, with the recipes of both papers.

python main.py --config=configs/resnet18.py:st3-90

TFDS_DATA_DIR or --config.data_dir names the folder that holds TFDS's
imagenet2012 as array_record; --config.num_workers is the number of processes
that decode it. The recipes stand in configs/recipes.py.

Variants: dense and str, with the recipe of STR and the weight decay and s of
its ResNet50 at 0% and 90.23%; st3-90, with the recipe of ST-3. Neither paper
reports this network on ImageNet: there is no figure to compare with, and what
sparsity str reaches is not known beforehand.

Not run here at full length.
"""

from configs import common, recipes

VARIANTS = {
  'dense': recipes.str_dense(3.0517578125e-5),
  'str': recipes.str_sparse(2.251757813e-5, -3200.0),
  'st3-90': recipes.st3_sparse('st3', 0.9),
}


def get_config(variant: str | None = None) -> common.ConfigDict:
  config = recipes.imagenet('resnet18', model='resnet18')
  return common.with_variant(config, variant, VARIANTS, default='str')
