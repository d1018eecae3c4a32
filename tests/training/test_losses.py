"""Losses against float64 NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax.errors import UserError
from mixer_jax.training.losses import get_loss

LOGITS = np.random.default_rng(0).normal(0, 4, (6, 5))
LABELS = np.array([0, 4, 2, 2, 1, 3])


def test_softmax():
  wanted = np.log(np.exp(LOGITS).sum(1)) - LOGITS[np.arange(6), LABELS]
  got = get_loss('softmax')(jnp.float32(LOGITS), jnp.int32(LABELS))
  np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_sigmoid_sums_over_classes():
  probability = 1 / (1 + np.exp(-LOGITS))
  target = np.eye(5)[LABELS]
  wanted = -(target * np.log(probability) + (1 - target) * np.log(1 - probability)).sum(1)
  got = get_loss('sigmoid')(jnp.float32(LOGITS), jnp.int32(LABELS))
  np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_another_name_is_refused():
  with pytest.raises(UserError, match="one of softmax, sigmoid, not 'hinge'"):
    get_loss('hinge')
