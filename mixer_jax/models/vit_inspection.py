"""What can be seen of a ViT: the filters of its stem, its position embeddings and its attention."""

from collections.abc import Mapping

import jax
import numpy as np

from mixer_jax.models import layers


def stem_kernel(config, params: dict) -> np.ndarray:
  """Return the kernel of the stem, (P, P, 3, C)."""
  del config
  return np.asarray(params['embedding']['kernel'])


def position_embeddings(config, params: dict) -> np.ndarray:
  """Return the position embedding of each patch, (G, G, C) with G patches per side.

  The class token's own is left out.
  """
  if config.position == 'sincos2d':
    table_SC = sincos2d(config)[0]
  else:
    table_SC = np.asarray(params['Transformer']['posembed_input']['pos_embedding'])[0]
  side = config.image_size // config.patch_size
  return table_SC[-(side**2) :].reshape(side, side, -1)


def sincos2d(config) -> np.ndarray:
  """Fixed position embeddings, (1, patches, C) float32: sin x, cos x, sin y and cos y.

  Wavelengths grow geometrically from 2π to 2π·10,000 patches (Beyer et al. 2022).
  """
  side, quarter = config.image_size // config.patch_size, config.hidden_dim // 4
  rate = 10_000.0 ** -(np.arange(quarter) / (quarter - 1))
  y, x = (np.outer(axis.ravel(), rate) for axis in np.mgrid[:side, :side])
  return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], 1)[None].astype(np.float32)


def attention_weights(config, features: Mapping[str, jax.Array], block: int) -> jax.Array:
  """Return the attention weights of a block, (B, heads, queries, keys) float32; traceable.

  They are computed from its queries and keys, as the forward pass does. The class
  token comes first, where there is one.

  Args:
    features: what `models.features` returned.
  """
  del config
  query, key = (features[f'block_{block}/attention/{name}'] for name in ('query', 'key'))
  return layers.attention_weights(query.swapaxes(1, 2), key.swapaxes(1, 2))
