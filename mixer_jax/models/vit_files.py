"""Weights files of ViTs: the layouts they are stored in, and the config of a file.

The published files of the ViT paper, AugReg and SAM share one count for the children of a block,
as Flax did before Linen; those of big_vision count each type. timm joins query, key and value.
"""

import functools
import logging
import math
import re

from mixer_jax.errors import UserError
from mixer_jax.models.files import Axes, Found, Layout, Stack
from mixer_jax.models.vit_config import VARIANTS, ViTConfig

log = logging.getLogger(__name__)

_POSITIONS = 'Transformer/posembed_input/pos_embedding'

_LINEN = (
  (re.compile(r'(encoderblock_[0-9]+)/LayerNorm_2/'), r'\1/LayerNorm_1/'),
  (re.compile(r'(encoderblock_[0-9]+/MultiHeadDotProductAttention)_1/'), r'\1_0/'),
  (re.compile(r'(encoderblock_[0-9]+/MlpBlock)_3/'), r'\1_0/'),
)
_TIMM = (
  (re.compile(r'^embedding/'), 'patch_embed/proj/'),
  (re.compile(r'^cls$'), 'cls_token'),
  (re.compile(f'^{_POSITIONS}$'), 'pos_embed'),
  (re.compile(r'^Transformer/encoderblock_'), 'blocks/'),
  (re.compile(r'^Transformer/encoder_norm/'), 'norm/'),
  (re.compile(r'^pre_logits/'), 'pre_logits/fc/'),
  (re.compile(r'/LayerNorm_0/'), '/norm1/'),
  (re.compile(r'/LayerNorm_2/'), '/norm2/'),
  (re.compile(r'/MultiHeadDotProductAttention_1/out/'), '/attn/proj/'),
  (re.compile(r'/MultiHeadDotProductAttention_1/(query|key|value)/'), '/attn/qkv/'),
  (re.compile(r'/MlpBlock_[03]/Dense_0/'), '/mlp/fc1/'),
  (re.compile(r'/MlpBlock_[03]/Dense_1/'), '/mlp/fc2/'),
  (re.compile(r'^MAPHead_0/'), 'attn_pool/'),
  (re.compile(r'^attn_pool/norm1/'), 'attn_pool/norm/'),
  (re.compile(r'^attn_pool/probe$'), 'attn_pool/latent'),
  (re.compile(r'/MultiHeadDotProductAttention_0/out/'), '/proj/'),
  (re.compile(r'/MultiHeadDotProductAttention_0/query/'), '/q/'),
  (re.compile(r'/MultiHeadDotProductAttention_0/(key|value)/'), '/kv/'),
  (re.compile(r'/(kernel|scale)$'), '/weight'),
  (re.compile(r'/'), '.'),
)
_BLOCK = re.compile(r'Transformer/encoderblock_([0-9]{1,6})/')


def _timm_axes(name: str) -> Axes:
  if re.search(r'/(query|key|value)/', name):
    return ((1, 2), 0) if name.endswith('kernel') else ((0, 1),)
  if name.endswith('/out/kernel'):
    return (2, (0, 1))
  if name == 'embedding/kernel':
    return (3, 2, 0, 1)
  return (1, 0) if name.endswith('kernel') else ()


def _timm_pieces(name: str) -> tuple[int, int]:
  if 'MAPHead' in name:
    return next(((i, 2) for i, part in enumerate(('key', 'value')) if f'/{part}/' in name), (0, 1))
  parts = enumerate(('query', 'key', 'value'))
  return next(((i, 3) for i, part in parts if f'/{part}/' in name), (0, 1))


def _timm_refusal(config) -> str:
  if config.representation_size:
    return 'timm has no representation layer: give the model a new head first, which drops it'
  return ''


def _about(config) -> dict[str, str]:
  """Fields that no array determines."""
  about = {'num_heads': str(config.num_heads)}
  return about if config.num_positions else {**about, 'image_size': str(config.image_size)}


def _timm_caveat(config) -> str:
  if config.gelu == 'tanh':
    return 'timm computes the exact GELU; these weights were trained with tanh'
  return ''


_HYBRID = 'a hybrid of ResNet and ViT, which is no family here: take a ViT without R in its name'

_STRANGERS = ((re.compile(r'conv_root/|gn_root/|block[0-9]+/unit[0-9]+/'), _HYBRID),)
_TIMM_STRANGERS = (
  (re.compile(r'patch_embed\.backbone\.'), _HYBRID),
  (re.compile(r'fc_norm\.'), 'a norm after the mean over tokens, where the ViT here has it before'),
  (re.compile(r'norm_pre\.'), 'a norm before the first block, which the ViT here does not have'),
  (
    re.compile(r'blocks\.[0-9]+\.ls[12]\.'),
    'a scale per channel, which the ViT here does not have',
  ),
  (re.compile(r'reg_token'), 'register tokens, which the ViT here does not have'),
)

LAYOUTS = (
  Layout('modern', '.npz', _BLOCK, first_row=_POSITIONS, strangers=_STRANGERS),
  Layout(
    'linen',
    '',
    _BLOCK,
    _LINEN,
    aliases=((re.compile('^(Transformer/)?pos_embedding$'), _POSITIONS),),
    stack=Stack('Transformer/encoderblock/', 'Transformer/encoderblock_{}/'),
    first_row=_POSITIONS,
    strangers=_STRANGERS,
  ),
  Layout(
    'timm',
    '.safetensors',
    re.compile(r'blocks\.([0-9]{1,6})\.'),
    _TIMM,
    axes=_timm_axes,
    pieces=_timm_pieces,
    first_row=_POSITIONS,
    strangers=_TIMM_STRANGERS,
    refusal=_timm_refusal,
    caveat=_timm_caveat,
    about=_about,
  ),
)
"""modern: the authors' published files. linen: big_vision's. timm: timm and hubs."""

_HEADS = {variant.hidden_dim: variant.num_heads for variant in VARIANTS.values()}
"""Channels of the published ViTs -> heads, which files of timm do not store."""


def from_file(found: Found) -> ViTConfig:
  """Return the config of a weights file.

  Raises:
    UserError: there is no such ViT, or the file does not store how many heads it has.
  """
  sizes, pooling = found.sizes, _pooling(found)
  make = functools.partial(
    ViTConfig,
    patch_size=sizes['P'],
    num_blocks=found.num_blocks,
    hidden_dim=sizes['C'],
    mlp_dim=sizes['F'],
    num_heads=_heads(found),
    num_classes=sizes['N'],
    pooling=pooling,
    representation_size=sizes.get('R', 0),
  )
  if 'S' not in sizes:  # such a model takes any size
    size = found.number('image_size') or sizes['P'] * max(224 // sizes['P'], 1)
    log.warning(
      'the file has no position embeddings: they are taken as fixed (sincos2d), at %d px', size
    )
    return make(position='sincos2d', image_size=size)
  side = _side(sizes['S'], pooling == 'token')
  return make(image_size=sizes['P'] * side)


def _pooling(found: Found) -> str:
  if 'cls' in found.shapes:
    return 'token'
  return 'map' if any(name.startswith('MAPHead_0/') for name in found.shapes) else 'gap'


def _heads(found: Found) -> int:
  channels = found.sizes['C']
  heads = found.sizes.get('H') or found.number('num_heads')
  heads = _HEADS.get(channels) if heads is None else heads
  if heads is None:
    raise UserError(
      f'the file does not store how many heads share its {channels} channels: name them, as '
      'num_heads=… of `load` or --num-heads=…; `convert` keeps them for commands without this flag'
    )
  return heads


def _side(positions: int, has_class_token: bool) -> int:
  """Patches per side of the image; the class token may have a position of its own."""
  for rows in (positions - 1, positions) if has_class_token else (positions,):
    side = math.isqrt(max(rows, 0))
    if side and side**2 == rows:
      return side
  extra = ' (one may be of the class token)' if has_class_token else ''
  raise UserError(f'{positions} position embeddings{extra} do not fill a square image')
