"""MobileNetV1 on ImageNet-1K, with the recipe of STR.

python main.py --config=configs/mobilenet_v1.py:str-89.01

TFDS_DATA_DIR or --config.data_dir names the folder that holds TFDS's
imagenet2012 as array_record; --config.num_workers is the number of processes
that decode it. The authors' configs for this network hold the same recipe as
for ResNet50 (see configs/recipes.py); only weight decay and s at the start are
its own. Depthwise layers are thresholded as all others are. 100 epochs are
500,500 steps of 256 images.

Variants, with what the authors report (STR, ICML 2020, Table 2 and appendix;
top-1 in %, multiply-adds). The names are the sparsities that came out.

  dense      71.95  569M
  str-75.28  68.35  101M
  str-79.07  66.52   81M
  str-85.80  64.83   55M
  str-89.01  62.10   42M
  str-89.62  61.51   40M

Not run here at full length.
"""

from configs import common, recipes

STR_ROWS = {  # zeros in %: weight decay, s at the start
  '75.28': (1.551757813e-5, -100.0),
  '79.07': (1.551757813e-5, -25.0),
  '85.80': (3.051757813e-5, -3200.0),
  '89.01': (3.751757813e-5, -12800.0),
  '89.62': (3.751757813e-5, -3200.0),
}

VARIANTS = {
  'dense': recipes.str_dense(3.0517578e-5),
  **{f'str-{k}': recipes.str_sparse(*row) for k, row in STR_ROWS.items()},
}


def get_config(variant: str | None = None) -> common.ConfigDict:
  config = recipes.imagenet('mobilenet_v1', model='mobilenet_v1')
  return common.with_variant(config, variant, VARIANTS, default='str-89.01')
