"""CKA between all layers of many models, in one pass over the data.

A layer's Gram matrix does not depend on what it is compared with. So each model computes those of
its own layers, models of one config by one compiled program, and all pairs of layers of all models
are one product of these matrices: two more models cost two forward passes, not one for each pair.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mixer_jax.analysis.cka import chosen_features
from mixer_jax.analysis.hsic import Contributions, Grams, Method, grams, pairs_of
from mixer_jax.analysis.layers import check_layers, check_reduction
from mixer_jax.parallel import mesh as meshes

GramsStep = Callable[[Any, Any], Grams]
PairsStep = Callable[[Sequence[Grams]], Contributions]


def make_grams_step(
  config, names: Sequence[str], mesh: Mesh, method: Method, *, how: str = 'flatten'
) -> GramsStep:
  """Make the jitted `step(params, batch)` of one model: Gram matrices of its layers `names`.

  They stay divided over the devices. Batches are those of `data.pipeline.eval_batches`, on the
  mesh; `how` as in `layers.reduced`.

  Raises:
    UserError: no name, one that the model does not have, or an unknown `how`.
  """
  check_reduction(how)
  check_layers(config, names)

  def step(params, batch):
    xs = chosen_features(config, names, how, params, batch)
    return grams(method, mesh, xs, batch['mask'])

  return jax.jit(step)


def make_pairs_step(mesh: Mesh, method: Method) -> PairsStep:
  """Make the jitted step from the `Grams` of all models, of the same images, to all their pairs.

  Its result is for `MinibatchCKA(n, n).add`, with the n layers of all models in this order.
  """

  def step(by_model):
    joined = [jnp.concatenate(parts) for parts in zip(*(one[:3] for one in by_model), strict=True)]
    return pairs_of(method, mesh, Grams(*joined, images=by_model[0].images), None)

  return jax.jit(step, out_shardings=meshes.replicated(mesh))
