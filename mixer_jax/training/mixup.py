"""Mixup (Zhang et al. 2018, arXiv 1710.09412), on the devices: images and labels mixed in pairs.

The partner of an example is the one before it in the global batch, as in the authors' code, and
the shares are a function of the key, so that a batch is mixed the same way on any mesh.
"""

import dataclasses

import jax
import jax.numpy as jnp

from mixer_jax import models
from mixer_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class MixupConfig:
  """Attributes:
  alpha: shares are drawn from Beta(alpha, alpha); the larger part of each draw is
    the example's own. Table 4 has .2 and .5. 0: nothing is mixed.
  per: 'batch', one share for all as in the authors' code, or 'example'.
  """

  alpha: float = 0.0
  per: str = 'batch'

  def __post_init__(self):
    if not 0 <= self.alpha <= 100:
      raise UserError(f'mixup must be in [0, 100], is {self.alpha!r}')
    if self.per not in ('batch', 'example'):
      raise UserError(f"mixup_per must be 'batch' or 'example', not {self.per!r}")


def with_partners(
  config: MixupConfig, batch: dict[str, jax.Array], key: jax.Array
) -> dict[str, jax.Array]:
  """Add to the batch each example's `partner_image`, `partner_label` and own `share` (B,)."""
  size = batch['label'].shape[0]
  draws = jax.random.beta(key, config.alpha, config.alpha, (1 if config.per == 'batch' else size,))
  return {
    **batch,
    'share': jnp.broadcast_to(jnp.maximum(draws, 1 - draws), (size,)),
    'partner_image': jnp.roll(batch['image'], 1, axis=0),
    'partner_label': jnp.roll(batch['label'], 1, axis=0),
  }


def mixed_images(model, batch: dict[str, jax.Array]) -> jax.Array:
  """Return the mixed images of a batch that `with_partners` made, (B, H, W, 3) float32."""
  share = batch['share'][:, None, None, None]
  mixed = share * batch['image'] + (1 - share) * batch['partner_image']
  return models.from_levels(model, mixed) if batch['image'].dtype == jnp.uint8 else mixed


def mixed_losses(loss_fn, logits: jax.Array, batch: dict[str, jax.Array]) -> jax.Array:
  """Return losses (B,): they are linear in the target, so that of a mixed target is the mix."""
  share = batch['share']
  own, partners = loss_fn(logits, batch['label']), loss_fn(logits, batch['partner_label'])
  return share * own + (1 - share) * partners
