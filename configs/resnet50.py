"""ResNet50 on ImageNet-1K, with the recipes of both papers.

python main.py --config=configs/resnet50.py:str-90.23

TFDS_DATA_DIR or --config.data_dir names the folder that holds TFDS's
imagenet2012 as array_record; --config.num_workers is the number of processes
that decode it. The recipes stand in configs/recipes.py.
100 epochs are 500,500 steps of 256 images (STR) or 250,300 of 512 (ST-3).

Variants, with what their authors report. STR sets its sparsity by weight
decay and s at the start: the names are the sparsities that came out (Table 1
and appendix of the paper; top-1 in %, multiply-adds).

  dense      77.01  4.09G  the baseline of STR, at weight decay 3.05e-5
  str-79.55  76.19   766M     str-95.15  70.23  162M
  str-81.27  76.12   705M     str-96.11  67.78  127M
  str-87.70  74.73   402M     str-96.53  67.22  117M
  str-90.23  74.31   343M     str-97.78  62.84   80M
  str-90.55  74.01   341M     str-98.05  61.46   73M
  str-94.80  70.97   182M     str-98.22  59.76   68M
  str-95.03  70.40   159M     str-98.79  54.79   54M
                              str-98.98  51.82   47M
                              str-99.10  50.35   44M

Its baselines, uniform over the layers, and with the budget that the STR
network of that sparsity learned (str_jax/published):

  gmp-90     73.91         dnw-90     74.00
  gmp-95     70.59         dnw-95     68.30
  gmp-98     57.90         dnw-98     58.20
  gmp-str-90.23  74.13     dnw-str-90.23  74.01
  gmp-str-98.05  59.47     dnw-str-94.80  69.72

ST-3 reaches the sparsity that is asked for (results table in the README of
the authors' code).

  st3-dense  77.10  4089M  the baseline of ST-3
  st3-80     76.95  1215M     st3_sigma-80    76.44  739M
  st3-90     76.03   764M     st3_sigma-90    75.28  397M
  st3-95     74.46   436M     st3_sigma-95    73.69  219M
  st3-96.5   73.31   351M     st3_sigma-96.5  72.62  167M
  st3-98     70.46   220M     st3_sigma-98    69.75  116M
  st3-99     63.88   120M     st3_sigma-99    63.25   69M

st3-80-rewind and so on: 100 epochs more with the zeros frozen, the learning
rate as in the first 100 (--config.method.rewind_epochs=0 for the others).

Not run here at full length.
"""

from configs import common, recipes

STR_ROWS = {  # zeros in %: weight decay, s at the start
  '79.55': (1.7e-5, -3200.0),
  '81.27': (1.751757813e-5, -3200.0),
  '87.70': (2.051757813e-5, -3200.0),
  '90.23': (2.251757813e-5, -3200.0),
  '90.55': (2.051757813e-5, -800.0),
  '94.80': (3.051757813e-5, -3200.0),
  '95.03': (3.351757813e-5, -12800.0),
  '95.15': (3.051757813e-5, -1600.0),
  '96.11': (3.051757813e-5, -100.0),
  '96.53': (4.051757813e-5, -12800.0),
  '97.78': (5.217578125e-5, -12800.0),
  '98.05': (5.651757813e-5, -12800.0),
  '98.22': (6.051757813e-5, -12800.0),
  '98.79': (7.551757813e-5, -12800.0),
  '98.98': (8.551757813e-5, -12800.0),
  '99.10': (9.051757813e-5, -12800.0),
}
BASELINE_ROWS = {'90': 0.9, '95': 0.95, '98': 0.98}
BUDGET_ROWS = (
  ('gmp', '90.23'),
  ('gmp', '98.05'),
  ('dnw', '90.23'),
  ('dnw', '94.80'),
)
ST3_ROWS = {
  '80': 0.8,
  '90': 0.9,
  '95': 0.95,
  '96.5': 0.965,
  '98': 0.98,
  '99': 0.99,
}

VARIANTS = {
  'dense': recipes.str_dense(3.0517578125e-5),
  **{f'str-{k}': recipes.str_sparse(*row) for k, row in STR_ROWS.items()},
  **{
    f'{method}-{k}': recipes.str_baseline(method, sparsity=sparsity)
    for method in ('gmp', 'dnw')
    for k, sparsity in BASELINE_ROWS.items()
  },
  **{
    f'{method}-str-{k}': recipes.str_baseline(
      method, budget=f'str-resnet50-{k}'
    )
    for method, k in BUDGET_ROWS
  },
  'st3-dense': recipes.st3_dense(),
  **{
    f'{method}-{k}': recipes.st3_sparse(method, sparsity)
    for method in ('st3', 'st3_sigma')
    for k, sparsity in ST3_ROWS.items()
  },
  **{
    f'st3-{k}-rewind': recipes.st3_rewound(sparsity)
    for k, sparsity in ST3_ROWS.items()
  },
}


def get_config(variant: str | None = None) -> common.ConfigDict:
  config = recipes.imagenet('resnet50', model='resnet50')
  return common.with_variant(config, variant, VARIANTS, default='str-90.23')
