"""ResNet50 on a folder of images of your own, without preparing anything.

python main.py --config=configs/imagefolder.py --config.data_dir=DIR
python main.py --config=configs/imagefolder.py:st3-90 --config.data_dir=DIR

DIR holds train/CLASS/*.jpg and val/CLASS/*.jpg (or test/CLASS; .png as well);
the classes are the folders' names. DIR may be gs:// or s3://, see docs/data.md.
--config.num_workers is the number of processes that read and decode.

The recipes are the two papers' for ImageNet, 100 epochs; with another number
of epochs set --config.total_epochs, and --config.batch_size must not exceed
the number of images.

Variants:

  dense       the baseline
  str         STR, at the weight decay and s that gave 90.23% zeros on ImageNet:
              other images and other lengths give other sparsities
  target-80   STR with 80% of the weights zero, whatever the images; so do
              target-90 and target-95
  st3-80      ST-3 at 80%, pruned from epoch 5 to 50; so do st3-90 and st3-95

Not run here at full length.
"""

from configs import common, recipes

_WEIGHT_DECAY = 3.0517578125e-5  # of STR's dense baseline
_SPARSITIES = {'80': 0.8, '90': 0.9, '95': 0.95}

VARIANTS = {
  'dense': recipes.str_dense(_WEIGHT_DECAY),
  'str': recipes.str_sparse(2.251757813e-5, -3200.0),
  **{
    f'target-{k}': recipes.str_dense(_WEIGHT_DECAY)
    | {'method.name': 'str', 'method.target': sparsity}
    for k, sparsity in _SPARSITIES.items()
  },
  **{
    f'st3-{k}': recipes.st3_sparse('st3', sparsity)
    for k, sparsity in _SPARSITIES.items()
  },
}


def get_config(variant: str | None = None) -> common.ConfigDict:
  config = recipes.imagenet('imagefolder', model='resnet50')
  config.dataset = 'imagefolder'
  config.image_size = 224
  config.validation = None  # val, where there is a test as well
  return common.with_variant(config, variant, VARIANTS, default='target-90')
