"""Loss of logits against integer labels, in float32."""

import jax
import jax.numpy as jnp
import optax

from mixer_jax.errors import UserError


def softmax_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Logits (B, N), labels (B,) -> loss of each example (B,)."""
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def sigmoid_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Sum of N independent binary losses per example: (B, N), (B,) -> (B,).

  The loss of the authors' ImageNet recipe (with `head_bias` -6.9).
  """
  targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
  return jnp.sum(optax.sigmoid_binary_cross_entropy(logits, targets), axis=-1)


_LOSSES = {'softmax': softmax_cross_entropy, 'sigmoid': sigmoid_cross_entropy}


def get_loss(name: str):
  """Return the loss called 'softmax' or 'sigmoid'."""
  if name not in _LOSSES:
    raise UserError(f'loss must be one of {", ".join(_LOSSES)}, not {name!r}')
  return _LOSSES[name]
