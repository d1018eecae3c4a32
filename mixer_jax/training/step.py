"""One training step: state, batch -> state, metrics; one `jax.jit` with shardings on a mesh.

Needs only jax, flax, optax and numpy.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mixer_jax import models
from mixer_jax.parallel import mesh as meshes
from mixer_jax.training.losses import get_loss
from mixer_jax.training.mixup import MixupConfig, mixed_images, mixed_losses, with_partners
from mixer_jax.training.optimizer import OptimizerConfig, Schedule
from mixer_jax.training.sam import Sam


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """Everything that a run carries from step to step; the rest follows from (config, seed, step)."""

  step: jax.Array
  """Number of steps taken, int32 scalar."""
  params: dict
  opt_state: Any
  model_state: dict = dataclasses.field(default_factory=dict)
  """Arrays that the forward pass of training updates; {} for a family without any."""

  @property
  def weights(self) -> models.Weights:
    """Argument of `models.apply`: params, with the model state where there is any."""
    return models.join(self.params, self.model_state)

  def parts(self) -> dict[str, Any]:
    """Return the state as `checkpoints.store` saves it; the model state only where there is any."""
    parts = {'params': self.params, 'optimizer': self.opt_state}
    return {**parts, 'model_state': self.model_state} if self.model_state else parts


def from_parts(step: int, parts: dict[str, Any], mesh) -> TrainState:
  """Return the state of a step from its saved parts, which are on the mesh."""
  count = meshes.put_replicated(mesh, {'step': np.int32(step)})['step']
  return TrainState(count, parts['params'], parts['optimizer'], parts.get('model_state', {}))


Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_state(weights: models.Weights, optimizer: optax.GradientTransformation) -> TrainState:
  """Return the state of step 0 with these weights."""
  params, model_state = models.split(weights)
  return TrainState(jnp.int32(0), params, optimizer.init(params), model_state)


def abstract_state(config, optimizer: optax.GradientTransformation, mesh) -> TrainState:
  """Return shapes, dtypes and shardings of the state, without computing it."""
  state = jax.eval_shape(lambda weights: make_state(weights, optimizer), models.shapes(config))
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
    state,
    meshes.shardings(mesh, state, config),
  )


def init_state(config, optimizer: optax.GradientTransformation, mesh, seed: int) -> TrainState:
  """Return a fresh state; each device computes only what it will hold."""
  out = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(config, optimizer, mesh))
  make = lambda key: make_state(models.init(config, key), optimizer)
  return jax.jit(make, out_shardings=out)(jax.random.key(seed))


def state_from_params(
  params: models.Weights, optimizer: optax.GradientTransformation, mesh, config=None
) -> TrainState:
  """Return the state of step 0 with weights that lie on the host.

  Args:
    config: as for `meshes.shardings`.
  """
  weights = meshes.put_replicated(mesh, params, config)
  make = lambda weights: make_state(weights, optimizer)
  out = meshes.shardings(mesh, jax.eval_shape(make, weights), config)
  return jax.jit(make, out_shardings=out, donate_argnums=0)(weights)


def flops_per_image(config, optimizer: OptimizerConfig) -> int:
  """Number of floating-point operations of a training step per image, without recomputation.

  The backward pass multiplies twice as much as the forward pass; sharpness-aware minimisation has
  both twice.
  """
  return (2 if optimizer.sam_rho else 1) * 3 * models.forward_flops(config)


def make_train_step(
  config,
  optimizer: optax.GradientTransformation,
  schedule: Schedule,
  mesh,
  *,
  loss: str = 'softmax',
  seed: int = 0,
  accumulate: int = 1,
  mixup: MixupConfig | None = None,
  sam: Sam | None = None,
) -> TrainStep:
  """Return the jitted step, which donates the state that it is given.

  A batch has `image` (B, H, W, 3), uint8 or floats in [-1, 1], and `label` (B,),
  int32, both sharded by `meshes.batch_sharding`. Metrics are replicated float32
  scalars of this step's batch, before the update: `loss`, `accuracy`, `grad_norm`
  (before clipping), `learning_rate`.

  `accumulate` cuts the batch into that many micro-batches, processed one after the other,
  and averages their gradients: the memory of B / accumulate. Each updates the model state.

  With `mixup` the accuracy counts the label of the example that has the larger share.

  With `sam` there are two passes over the batch. Loss, accuracy and model state are those of the
  first; `grad_norm` is that of the gradient that the optimizer gets.
  """
  loss_fn, mixup = get_loss(loss), mixup or MixupConfig()

  def mean_loss(params, model_state, batch, key):
    images = mixed_images(config, batch) if mixup.alpha else batch['image']
    weights = models.join(params, model_state)
    logits, model_state = models.apply_in_training(config, weights, images, key)
    correct = jnp.argmax(logits, axis=-1) == batch['label']
    if mixup.alpha:
      losses = mixed_losses(loss_fn, logits, batch)
    else:
      losses = loss_fn(logits, batch['label'])
    return jnp.mean(losses), (jnp.mean(correct, dtype=jnp.float32), model_state)

  value_and_grad = jax.value_and_grad(mean_loss, has_aux=True)

  def one(params, model_state, batch, key):
    (value, (accuracy, model_state)), grads = value_and_grad(params, model_state, batch, key)
    return ((value, accuracy), grads), model_state

  def accumulated(params, model_state, batch, key):
    """Return ((loss, accuracy), gradients) averaged over micro-batches, and the model state."""
    if accumulate == 1:
      return one(params, model_state, batch, key)

    def micro(carried, indexed):
      (total, model_state), (index, micro_batch) = carried, indexed
      value, model_state = one(params, model_state, micro_batch, jax.random.fold_in(key, index))
      return (jax.tree.map(jnp.add, total, value), model_state), None

    # Every accumulate-th example makes a micro-batch, so that each device cuts only its own rows.
    cut = lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1)
    zero = ((jnp.float32(0), jnp.float32(0)), jax.tree.map(jnp.zeros_like, params))
    (total, model_state), _ = jax.lax.scan(
      micro, (zero, model_state), (jnp.arange(accumulate), jax.tree.map(cut, batch))
    )
    return jax.tree.map(lambda x: x / accumulate, total), model_state

  def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    if mixup.alpha:
      key, own_key = jax.random.split(key)
      batch = with_partners(mixup, batch, own_key)
    at = lambda params: accumulated(params, state.model_state, batch, key)
    ((value, accuracy), grads), model_state = at(state.params)
    if sam:
      grads = sam.gradient(lambda params: at(params)[0][1], state.params, grads, state.step)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {
      'loss': value,
      'accuracy': accuracy,
      'grad_norm': optax.tree.norm(grads),
      'learning_rate': jnp.asarray(schedule(state.step), jnp.float32),
    }
    return TrainState(state.step + 1, params, opt_state, model_state), metrics

  state_shardings = jax.tree.map(
    lambda leaf: leaf.sharding, abstract_state(config, optimizer, mesh)
  )
  return jax.jit(
    train_step,
    in_shardings=(state_shardings, meshes.batch_sharding(mesh)),
    out_shardings=(state_shardings, meshes.replicated(mesh)),
    donate_argnums=0,
  )
