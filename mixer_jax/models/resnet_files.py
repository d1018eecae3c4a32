"""Weights files of BiT's ResNets: the layouts they are stored in."""

import re

from mixer_jax.models.files import Axes, Layout, Stages

_PART = {'0': 'a', '1': 'b', '2': 'c'}

_TENSORFLOW = (
  (re.compile(r'^stem/'), 'resnet/root_block/standardized_conv2d/'),
  (re.compile(r'^pre_head_group_norm/'), 'resnet/group_norm/'),
  (re.compile(r'^head/'), 'resnet/head/conv2d/'),
  (re.compile(r'^ResNetBlock_'), 'block_'),
  (re.compile(r'/projection/'), '/a/proj/standardized_conv2d/'),
  *(
    (re.compile(f'/{kind}_{number}/'), f'/{part}/{stored}/')
    for kind, stored in (('Conv', 'standardized_conv2d'), ('GroupNorm', 'group_norm'))
    for number, part in _PART.items()
  ),
  (re.compile(r'/group_norm/scale$'), '/group_norm/gamma'),
  (re.compile(r'/group_norm/bias$'), '/group_norm/beta'),
)
_NUMBERED = ((re.compile(r'(standardized_conv2d|group_norm|conv2d)_[0-9]+/'), r'\1/'),)

_BIG_VISION = (
  (re.compile(r'^stem/'), 'root_block/conv_root/'),
  (re.compile(r'^pre_head_group_norm/'), 'norm-pre-head/'),
  (re.compile(r'^ResNetBlock_'), 'block_'),
  (re.compile(r'/projection/'), '/conv_proj/'),
  *((re.compile(f'/Conv_{i}/'), f'/conv{i + 1}/') for i in range(3)),
  *((re.compile(f'/GroupNorm_{i}/'), f'/gn{i + 1}/') for i in range(3)),
)

_TIMM = (
  (re.compile(r'^stem/'), 'stem/conv/'),
  (re.compile(r'^pre_head_group_norm/'), 'norm/'),
  (re.compile(r'^head/'), 'head/fc/'),
  (re.compile(r'/projection/'), '/downsample/conv/'),
  *((re.compile(f'/Conv_{i}/'), f'/conv{i + 1}/') for i in range(3)),
  *((re.compile(f'/GroupNorm_{i}/'), f'/norm{i + 1}/') for i in range(3)),
  (re.compile(r'/(kernel|scale)$'), '/weight'),
  (re.compile(r'^ResNetBlock_'), 'block_'),
  (re.compile(r'/'), '.'),
)


def _tensorflow_axes(name: str) -> Axes:
  return ((), (), 0, 1) if name == 'head/kernel' else ()


def _timm_axes(name: str) -> Axes:
  if name == 'head/kernel':
    return (1, 0, (), ())
  return (3, 2, 0, 1) if name.endswith('kernel') else ()


def _groups_refusal(config) -> str:
  if config.groups != 32:
    return f"a reader takes BiT's 32 groups, not {config.groups}: write it as *.safetensors"
  return ''


def _about(config) -> dict[str, str]:
  """Fields that no array determines."""
  return {'image_size': str(config.image_size), 'groups': str(config.groups)}


_BLOCK = re.compile(r'block_([0-9]{1,6})[/.]')

_NUMBERS = r'([0-9]{1,6})'
_TENSORFLOW_STAGES = Stages(
  re.compile(f'resnet/block{_NUMBERS}/unit{_NUMBERS}/'),
  'resnet/block{}/unit{:02}/',
  flat='block_{}/',
  first=1,
)
_BIG_VISION_STAGES = Stages(
  re.compile(f'block{_NUMBERS}/unit{_NUMBERS}/'), 'block{}/unit{:02}/', flat='block_{}/', first=1
)
_TIMM_STAGES = Stages(
  re.compile(rf'stages\.{_NUMBERS}\.blocks\.{_NUMBERS}\.'),
  'stages.{}.blocks.{}.',
  flat='block_{}.',
  first=0,
)

LAYOUTS = (
  Layout(
    'modern',
    '.npz',
    _BLOCK,
    _TENSORFLOW,
    _NUMBERED,
    _tensorflow_axes,
    stages=_TENSORFLOW_STAGES,
    refusal=_groups_refusal,
  ),
  Layout('big_vision', '', _BLOCK, _BIG_VISION, leading_ones=True, stages=_BIG_VISION_STAGES),
  Layout('timm', '.safetensors', _BLOCK, _TIMM, axes=_timm_axes, stages=_TIMM_STAGES, about=_about),
)
"""modern: the authors' published files, by TensorFlow. timm: timm and hubs."""
