"""Weights files of Mixers: the layouts they are stored in, and those that were published.

Sizes, classes and accuracies are those of the paper (Tables 2 and 3), of the authors'
repository, and of timm's own results table.
"""

import re

from mixer_jax.models.files import Layout, PublishedFile

_LEGACY = (
  (re.compile(r'^stem/'), 'embedding/'),
  (re.compile(r'^pre_head_layer_norm/'), 'Mixer/encoder_norm/'),
  (re.compile(r'^MixerBlock_'), 'Mixer/encoderblock_'),
  (re.compile(r'_mixing/Dense_0/(kernel|bias)$'), r'_mixing_phase_0/\g<1>1'),
  (re.compile(r'_mixing/Dense_1/(kernel|bias)$'), r'_mixing_phase_0/\g<1>2'),
)
_TIMM = (
  (re.compile(r'^stem/'), 'stem/proj/'),
  (re.compile(r'^pre_head_layer_norm/'), 'norm/'),
  (re.compile(r'^MixerBlock_'), 'blocks/'),
  (re.compile(r'/LayerNorm_0/'), '/norm1/'),
  (re.compile(r'/LayerNorm_1/'), '/norm2/'),
  (re.compile(r'/(token|channel)_mixing/'), r'/mlp_\1s/'),
  (re.compile(r'/Dense_0/'), '/fc1/'),
  (re.compile(r'/Dense_1/'), '/fc2/'),
  (re.compile(r'/(kernel|scale)$'), '/weight'),
  (re.compile(r'/'), '.'),
)


def _timm_axes(name: str) -> tuple[int, ...]:
  if not name.endswith('kernel'):
    return ()
  return (3, 2, 0, 1) if name.startswith('stem') else (1, 0)


def _timm_caveat(config) -> str:
  if config.gelu == 'tanh':
    return 'timm computes the exact GELU; these weights were trained with tanh'
  return ''


LAYOUTS = (
  Layout('modern', '.npz', re.compile(r'MixerBlock_([0-9]{1,6})/')),
  Layout('legacy', '', re.compile(r'Mixer/encoderblock_([0-9]{1,6})/'), _LEGACY, leading_ones=True),
  Layout(
    'timm',
    '.safetensors',
    re.compile(r'blocks\.([0-9]{1,6})\.'),
    _TIMM,
    axes=_timm_axes,
    caveat=_timm_caveat,
  ),
)
"""modern: the authors' published files. legacy: those of their first code. timm: timm and hubs."""

BUCKET = 'https://storage.googleapis.com/mixer_models'
_HUB = 'https://huggingface.co/timm'
_21K = '{} on ImageNet only after fine-tuning, which was never published'
_PAPER = {'imagenet1k': 'imagenet2012', 'imagenet21k': 'imagenet21k'}


def _authors(name: str, mebibytes: float, num_classes: int = 1000, **more) -> PublishedFile:
  variant = name.rpartition('-')[2].replace('_', '/')
  data = _PAPER.get(name.partition('/')[0])  # those of sam/ and gsam/ were trained otherwise
  url, fields = f'{BUCKET}/{name}.npz', {'num_classes': num_classes}
  return PublishedFile(name, url, variant, fields, mebibytes, pretrained_on=data, **more)


def _hub(name: str, num_classes: int, **more) -> PublishedFile:
  url = f'{_HUB}/{name}/resolve/main/model.safetensors'
  fields = {'num_classes': num_classes}
  own = {
    'recipe': 'timm',
    'pretrained_on': 'imagenet2012' if num_classes == 1000 else 'imagenet21k',
  }
  if 'miil' in name:
    fields |= {'gelu': 'erf', 'input_range': '[0, 1]'}
    own = {'recipe': 'timm-bilinear'}
  return PublishedFile(f'timm/{name}', url, f'{name[6].upper()}/16', fields, None, **own, **more)


PUBLISHED = (
  _authors('imagenet1k/Mixer-B_16', 228.47, top1=76.44, real=82.36),
  _authors('imagenet1k/Mixer-L_16', 794.29, top1=71.76, real=77.08),
  _authors('imagenet21k/Mixer-B_16', 289.61, 21_843, note=_21K.format('80.64')),
  _authors('imagenet21k/Mixer-L_16', 875.78, 21_843, note=_21K.format('82.89')),
  _authors('sam/Mixer-B_16', 228.47, top1=77.4),
  _authors('sam/Mixer-B_32', 230.04),
  _authors('gsam/Mixer-B_16', 228.47),
  _authors('gsam/Mixer-B_32', 230.04),
  _authors('gsam/Mixer-S_16', 70.71),
  _authors('gsam/Mixer-S_32', 72.91),
  _authors('gsam/Mixer-S_8', 78.79),
  _hub(
    'mixer_b16_224.goog_in21k_ft_in1k',
    1000,
    top1=76.616,
    note='is imagenet1k/Mixer-B_16; figure by exact GELU',
  ),
  _hub(
    'mixer_l16_224.goog_in21k_ft_in1k',
    1000,
    top1=72.084,
    note='is imagenet1k/Mixer-L_16; figure by exact GELU',
  ),
  _hub('mixer_b16_224.goog_in21k', 21_843, note=_21K.format('80.64')),
  _hub('mixer_l16_224.goog_in21k', 21_843, note=_21K.format('82.89')),
  _hub('mixer_b16_224.miil_in21k', 11_221, note='takes [0, 1], exact GELU'),
  _hub('mixer_b16_224.miil_in21k_ft_in1k', 1000, top1=82.314, note='takes [0, 1], exact GELU'),
)
