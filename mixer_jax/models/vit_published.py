"""ViTs that were published: the ViT paper's, AugReg's and SAM's files, and timm's.

Directories, sizes and accuracies are those of the authors' repository (its README and notebooks);
names, recipes and accuracies of timm's files are timm's own.
"""

import re
from typing import Any

from mixer_jax.errors import UserError
from mixer_jax.models.files import PublishedFile

_BUCKET = 'https://storage.googleapis.com/vit_models'
_HUB = 'https://huggingface.co/timm'

_HYBRID = re.compile(
  r'(augreg/)?R[0-9]*_(Ti|S|L)_[0-9]+-.*|[^/]+/R[0-9]+\+ViT-.*|(timm/)?vit_[a-z]+_r(26|50)?_s[0-9].*'
)


def _authors(
  name: str, size: int, num_classes: int, mebibytes: float | None, **more: Any
) -> PublishedFile:
  """A file of the authors.

  Args:
    name: path below their bucket, such as 'sam/ViT-B_16'.
    size: of images, pixels.
    num_classes: of its head.
    mebibytes: of the file.
    more: other fields of `PublishedFile`; `fields` are those of the config.
  """
  variant = 'ViT-' + name.rpartition('ViT-')[2].removesuffix('-224').replace('_', '/')
  fields = {'image_size': size, 'num_classes': num_classes, **more.pop('fields', {})}
  url = f'{_BUCKET}/{name}.npz'
  return PublishedFile(
    name, url, variant, fields, mebibytes, recipe='vit-jax', crop_fraction=1.0, **more
  )


def _21k(variant: str, mebibytes: float | None, width: int, note: str) -> PublishedFile:
  return _authors(
    f'imagenet21k/ViT-{variant}',
    224,
    21_843,
    mebibytes,
    fields={'representation_size': width},
    pretrained_on='imagenet21k',
    note=note,
  )


def _fine_tuned(
  variant: str, size: int, mebibytes: float | None, top1: float | None = None, note: str = ''
) -> PublishedFile:
  name = f'imagenet21k+imagenet2012/ViT-{variant}'
  return _authors(name, size, 1000, mebibytes, top1=top1, note=note, pretrained_on='imagenet21k')


_GSAM = {'pooling': 'gap'}
_ZERO = 'its head is zeros: fine-tune it'
_TWO = 'published: {} without dropout, {} with; which of them it is, is not said'


# --- AugReg (Steiner et al. 2021): names of the files say how they were trained.

_AUGREG = re.compile(
  r'(?P<variant>(?:Ti|S|B|L)_[0-9]+)-(?P<data>i1k|i21k|i21k_30)-(?P<epochs>[0-9]+)ep'
  r'-lr_(?P<learning_rate>[0-9.e-]+)-aug_(?P<augmentation>none|(?:light|medium|strong)[0-9])'
  r'-wd_(?P<weight_decay>[0-9.]+)-do_(?P<dropout>[0-9.]+)-sd_(?P<stochastic_depth>[0-9.]+)'
  r'(?:--(?P<fine_tuned_on>[a-z0-9_]+)-steps_(?P<steps>[0-9]+)k'
  r'-lr_(?P<fine_tuning_rate>[0-9.e-]+)-res_(?P<resolution>[0-9]+))?'
)
_CLASSES = {
  'i1k': 1000,
  'i21k': 21_843,
  'i21k_30': 21_843,
  'imagenet2012': 1000,
  'cifar100': 100,
  'oxford_iiit_pet': 37,
  'kitti': 4,
  'resisc45': 45,
}
"""Classes of the head by the data set; of KITTI, VTAB's task."""


def _training(name: str) -> dict[str, Any] | None:
  """Fields in the name of an AugReg file; None for another name."""
  match = _AUGREG.fullmatch(name)
  if match is None:
    return None
  found: dict[str, Any] = {k: text for k, text in match.groupdict().items() if text is not None}
  try:
    for field in ('epochs', 'steps', 'resolution'):
      found |= {field: int(found[field])} if field in found else {}
    rates = ('learning_rate', 'weight_decay', 'dropout', 'stochastic_depth', 'fine_tuning_rate')
    for field in rates:
      found |= {field: float(found[field])} if field in found else {}
  except ValueError:
    return None
  if 'steps' in found:
    found['steps'] = 1000 * found['steps'] or 500  # 500 are written as 0k
  return found


def _augreg(name: str, mebibytes: float | None = None, **more: Any) -> PublishedFile | None:
  training = _training(name)
  if training is None:
    return None
  variant = f'ViT-{training.pop("variant").replace("_", "/")}'
  data = training.get('fine_tuned_on', training['data'])
  if variant not in _WIDTHS or data not in _CLASSES:
    return None
  return PublishedFile(
    f'augreg/{name}',
    f'{_BUCKET}/augreg/{name}.npz',
    variant,
    {'image_size': training.get('resolution', 224), 'num_classes': _CLASSES[data]},
    mebibytes,
    recipe='vit-jax',
    crop_fraction=1.0,
    training=training,
    **more,
  )


_WIDTHS = {
  'ViT-Ti/16': 'tiny_patch16',
  'ViT-S/32': 'small_patch32',
  'ViT-S/16': 'small_patch16',
  'ViT-B/32': 'base_patch32',
  'ViT-B/16': 'base_patch16',
  'ViT-B/8': 'base_patch8',
  'ViT-L/32': 'large_patch32',
  'ViT-L/16': 'large_patch16',
}
"""Variants of which there are weights -> timm's name of them."""

_PRETRAINED = {
  'Ti_16': 'none-wd_0.03',
  'S_32': 'none-wd_0.1',
  'S_16': 'light1-wd_0.03',
  'B_32': 'light1-wd_0.1',
  'B_16': 'medium1-wd_0.1',
  'B_8': 'medium2-wd_0.1',
  'L_16': 'strong1-wd_0.1',
}
"""The authors' choice: the pre-training on ImageNet-21k that is best on its validation images."""
_ON_IMAGENET = {  # fine-tuning rate and resolution, top-1
  'Ti_16': ('0.03', 384, 78.22),
  'S_32': ('0.01', 384, 79.58),
  'S_16': ('0.03', 384, 83.73),
  'B_32': ('0.01', 384, 83.59),
  'B_16': ('0.03', 384, 85.49),
  'B_8': ('0.03', 224, None),
  'L_16': ('0.01', 384, 85.59),
}


def _recommended() -> list[PublishedFile]:
  files = []
  for variant, how in _PRETRAINED.items():
    name = f'{variant}-i21k-300ep-lr_0.001-aug_{how}-do_0.0-sd_0.0'
    rate, size, top1 = _ON_IMAGENET[variant]
    tuned = f'{name}--imagenet2012-steps_20k-lr_{rate}-res_{size}'
    files += [_augreg(name), _augreg(tuned, top1=top1)]
  return [file for file in files if file is not None]


# --- timm.


def _hub(tag: str, variant: str, size: int, top1: float | None) -> PublishedFile:
  name = f'vit_{_WIDTHS[variant]}_{size}.{tag}'
  num_classes = 1000 if tag.endswith('in1k') else 21_843
  return PublishedFile(
    f'timm/{name}',
    f'{_HUB}/{name}/resolve/main/model.safetensors',
    variant,
    {'image_size': size, 'num_classes': num_classes, 'gelu': 'erf'},
    None,
    recipe='timm',
    crop_fraction=1.0 if size == 384 else 0.9,
    top1=top1,
  )


_TIMM = {  # tag -> (variant, pixels, top-1 by timm)
  'augreg_in21k': [(variant, 224, None) for variant in _WIDTHS if variant != 'ViT-L/32'],
  'augreg_in21k_ft_in1k': [
    ('ViT-Ti/16', 224, 75.452),
    ('ViT-Ti/16', 384, 78.438),
    ('ViT-S/32', 224, 76.010),
    ('ViT-S/32', 384, 80.476),
    ('ViT-S/16', 224, 81.402),
    ('ViT-S/16', 384, 83.814),
    ('ViT-B/32', 224, 80.732),
    ('ViT-B/32', 384, 83.358),
    ('ViT-B/16', 224, 84.534),
    ('ViT-B/16', 384, 86.010),
    ('ViT-B/8', 224, 85.838),
    ('ViT-L/16', 224, 85.856),
    ('ViT-L/16', 384, 87.096),
  ],
  'augreg_in1k': [
    ('ViT-S/16', 224, 78.842),
    ('ViT-S/16', 384, 81.130),
    ('ViT-B/32', 224, 74.908),
    ('ViT-B/32', 384, 78.750),
    ('ViT-B/16', 224, 79.154),
    ('ViT-B/16', 384, 81.102),
  ],
  'orig_in21k_ft_in1k': [
    ('ViT-B/16', 224, 81.782),
    ('ViT-B/16', 384, 84.212),
    ('ViT-L/32', 384, 81.508),
  ],
  'sam_in1k': [('ViT-B/32', 224, 73.704), ('ViT-B/16', 224, 80.246)],
}

PUBLISHED = (
  _21k('B_16', 393.69, 768, _ZERO),
  _21k('B_32', 400.01, 768, _ZERO),
  _21k('B_8', 393.72, 768, ''),
  _21k('L_16', None, 1024, _ZERO),
  _21k('L_32', None, 1024, _ZERO),
  _21k('H_14', None, 1280, _ZERO),
  _fine_tuned('B_16', 384, 331.40, note=_TWO.format(84.53, 84.12)),
  _fine_tuned('B_32', 384, 336.89, note=_TWO.format(81.66, 81.31)),
  _fine_tuned('B_8', 384, 334.78),
  _fine_tuned('L_16', 384, None, 85.05),
  _fine_tuned('L_32', 384, None, note=_TWO.format(81.89, 81.13)),
  _fine_tuned('B_16-224', 224, 330.29, 81.2),
  _fine_tuned('L_16-224', 224, None, 82.7),
  _authors('sam/ViT-S_16', 224, 1000, 252.57, note='holds the optimizer too'),
  _authors('sam/ViT-B_32', 224, 1000, 336.61),
  _authors('sam/ViT-B_16', 224, 1000, 330.30),
  _authors('sam/ViT-L_32', 224, 1000, None),
  _authors('sam/ViT-L_16', 224, 1000, None),
  *(
    _authors(f'gsam/ViT-{variant}', 224, 1000, None, fields=_GSAM)
    for variant in ('S_32', 'S_16', 'B_32', 'B_16')
  ),
  *_recommended(),
  *(_hub(tag, *row) for tag, rows in _TIMM.items() for row in rows),
)


def named_file(name: str) -> PublishedFile | None:
  """Return any of AugReg's 51,509 files by its name, with or without 'augreg/' or its address.

  Raises:
    UserError: it is a hybrid of ResNet and ViT.
  """
  name = name.removeprefix(f'{_BUCKET}/')
  if _HYBRID.fullmatch(name):
    raise UserError(f'{name} is a hybrid of ResNet and ViT, which is no family here')
  return _augreg(name.removeprefix('augreg/'))
