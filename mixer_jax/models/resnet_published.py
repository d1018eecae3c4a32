"""BiT's ResNets that were published: the authors' files, and timm's.

Names and accuracies are those of the authors' repository and paper, and of timm. The authors' code
fine-tunes and evaluates at 480 px, timm evaluates at the sizes given here.
"""

from mixer_jax.models.files import PublishedFile

_BUCKET = 'https://storage.googleapis.com/bit_models'
_HUB = 'https://huggingface.co/timm'

_DATA = {'S': 'imagenet2012', 'M': 'imagenet21k'}
_TUNED = 'fine-tuned on ImageNet after ImageNet-21k'
_TOP1 = {'50x1': 80.68, '152x2': 85.15, '152x4': 85.39}


def _authors(name: str, variant: str, size: int, num_classes: int, **more) -> PublishedFile:
  """A file of the authors, which they evaluate on squares without a crop."""
  return PublishedFile(
    f'bit/{name}',
    f'{_BUCKET}/{name}.npz',
    f'BiT-{variant}',
    {'image_size': size, 'num_classes': num_classes},
    None,
    recipe='vit-jax',
    crop_fraction=1.0,
    **more,
  )


def _hub(
  name: str, size: int, top1: float | None, recipe: str = 'timm-bilinear', crop: float = 1.0
) -> PublishedFile:
  """A file of timm, such as 'resnetv2_50x1_bit.goog_in21k'."""
  return PublishedFile(
    f'timm/{name}',
    f'{_HUB}/{name}/resolve/main/model.safetensors',
    f'BiT-R{name.split("_")[1]}',
    {'image_size': size, 'num_classes': 21_843 if name.endswith('in21k') else 1000},
    None,
    recipe=recipe,
    crop_fraction=crop,
    top1=top1,
    pretrained_on='imagenet21k' if 'in21k' in name else None,
  )


_TIMM = {  # variant -> (pixels, top-1 by timm)
  '50x1': (448, 80.386),
  '101x1': (448, 82.332),
  '50x3': (448, 83.982),
  '101x3': (448, 84.430),
  '152x2': (448, 84.468),
  '152x4': (480, 84.936),
}

PUBLISHED = (
  *(
    _authors(f'BiT-{data}-R{size}', f'R{size}', 224, classes, pretrained_on=_DATA[data])
    for data, classes in (('S', 1000), ('M', 21_843))
    for size in _TIMM
  ),
  *(
    _authors(
      f'BiT-M-R{size}-ILSVRC2012',
      f'R{size}',
      480,
      1000,
      top1=_TOP1.get(size),
      pretrained_on=_DATA['M'],
      note=_TUNED,
    )
    for size in _TIMM
  ),
  _authors('distill/R50x1_224', 'R50x1', 224, 1000, top1=82.8),
  _authors('distill/R50x1_160', 'R50x1', 160, 1000, top1=80.5),
  _authors('distill/R152x2_T_224', 'R152x2', 224, 1000, note='a teacher of distill/'),
  _authors('distill/R152x2_T_384', 'R152x2', 384, 1000, note='a teacher of distill/'),
  *(_hub(f'resnetv2_{size}_bit.goog_in21k', 224, None, crop=0.875) for size in _TIMM),
  *(
    _hub(f'resnetv2_{size}_bit.goog_in21k_ft_in1k', pixels, top1)
    for size, (pixels, top1) in _TIMM.items()
  ),
  _hub('resnetv2_50x1_bit.goog_distilled_in1k', 224, 82.820, 'timm', 0.875),
  _hub('resnetv2_152x2_bit.goog_teacher_in21k_ft_in1k', 224, 82.918, 'timm', 0.875),
  _hub('resnetv2_152x2_bit.goog_teacher_in21k_ft_in1k_384', 384, 83.858, 'timm', 1.0),
)
