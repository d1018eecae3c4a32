"""Sharpness-aware minimisation: the gradient of the loss where it is largest nearby.

SAM (Foret et al. 2021, arXiv 2010.01412, Algorithm 1) takes the gradient at params + ε, with
ε = ρ g / |g| and the gradient g at params. GSAM (Zhuang et al. 2022, arXiv 2203.08065, Algorithm 1)
moreover subtracts α times the component of g that is orthogonal to that gradient. It has α = 0 and
a constant ρ for SAM.

Both gradients are those of the whole batch, with the same mixup and the same random numbers. The
authors' code (big_vision, trainers/proj/gsam) computes ε and the orthogonal component on each
device, from its own images, and averages what comes out (m-sharpness, section 4.1 of Foret et al.).
Here a step does not depend on the number of devices. It is the authors' on one device; they
recommend a larger ρ for fewer devices.

optax.contrib.sam makes the same updates as SAM here, but it has no GSAM, no radius that follows the
learning rate, and gives NaN for a gradient of zero.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from mixer_jax.training.optimizer import OptimizerConfig, Schedule


@dataclasses.dataclass(frozen=True)
class Sam:
  """Attributes:
  radius: ρ as a function of the step.
  alpha: GSAM's α; 0: SAM.
  """

  radius: Schedule
  alpha: float

  def gradient(
    self, gradient: Callable[[dict], dict], params: dict, clean: dict, step: jax.Array
  ) -> dict:
    """Return the gradient for the optimizer.

    Args:
      gradient: params -> gradient of the loss of this step's batch; called once.
      clean: `gradient(params)`. Where all of it is 0, nothing is perturbed.
    """
    radius = self.radius(step)
    perturbed = gradient(jax.tree.map(lambda p, u: p + radius * u, params, _unit(clean)))
    if not self.alpha:
      return perturbed
    along = _unit(perturbed)
    # Sums of products, not `vdot`: that flattens arrays, for which split ones are gathered.
    share = optax.tree.sum(jax.tree.map(lambda c, u: jnp.sum(c * u), clean, along))
    return jax.tree.map(lambda p, c, u: p - self.alpha * (c - share * u), perturbed, clean, along)


def _unit(tree: dict) -> dict:
  """Return a tree scaled to a global norm of 1; zeros stay zeros."""
  norm = optax.tree.norm(tree)
  scale = jnp.where(norm > 0, 1 / norm, 0)
  return jax.tree.map(lambda x: scale * x, tree)


def make_sam(config: OptimizerConfig, schedule: Schedule) -> Sam | None:
  """Return what the `sam_` fields say; None where they are off.

  Args:
    schedule: the learning rate, which the radius follows if `sam_rho_end` is set: at most
      `sam_rho`, at the peak, and at least `sam_rho_end`, also at the lower rates of a warm-up.
  """
  if not config.sam_rho:
    return None
  most, least = config.sam_rho, config.sam_rho_end
  if not least:
    return Sam(lambda step: most, config.sam_alpha)
  peak, end = config.learning_rate, config.end_factor * config.learning_rate

  def radius(step):
    share = (schedule(step) - end) / (peak - end)
    return least + (most - least) * jnp.clip(share, 0, 1)

  return Sam(radius, config.sam_alpha)
