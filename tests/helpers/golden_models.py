"""Golden numbers of the authors' ViT and BiT on small random weights."""

import pathlib

import jax
import numpy as np
import optax

import mixer_jax
from mixer_jax.checkpoints import layouts
from mixer_jax.models import family
from mixer_jax.models.parameters import flatten

DATA = pathlib.Path(__file__).parent.parent / 'golden'


def read(name: str) -> tuple:
  """Return config, params and expected numbers of 'vit_token', 'bit_tiny', …"""
  with np.load(DATA / f'{name}.expected.npz') as file:
    expected = dict(file)
  known = {'image_size': expected['images'].shape[1]}
  weights = layouts.read(DATA / f'{name}.npz', known)
  return weights.config, weights.params, expected


def check_gradients(config, params: dict, expected: dict[str, np.ndarray]) -> None:
  """Compare loss and gradients within 1e-4 of the floored scale of each parameter.

  Of large parameters the files have the norm of the gradient only.
  """

  def loss(params):
    logits = mixer_jax.apply(config, params, expected['images'])
    return optax.softmax_cross_entropy_with_integer_labels(logits, expected['labels']).mean()

  value, gradients = jax.jit(jax.value_and_grad(loss))(params)
  np.testing.assert_allclose(value, expected['loss'], atol=1e-6)
  gradients = {name: np.asarray(gradient) for name, gradient in flatten(gradients).items()}
  largest = max(np.abs(gradient).max() for gradient in gradients.values())
  module = family.of(config)
  layout = module.LAYOUTS[0]
  places = module.places(config) if layout.stages else ()
  for name, gradient in gradients.items():
    stored = layout.in_stages(layout.rename(name), places)
    if f'grad/{stored}' in expected:
      wanted = expected[f'grad/{stored}'].reshape(gradient.shape)
      scale = max(np.abs(wanted).max(), 1e-3 * largest)
      assert np.abs(gradient - wanted).max() <= 1e-4 * scale, name
    else:
      norm = np.linalg.norm(gradient.astype(np.float64))
      np.testing.assert_allclose(norm, expected[f'gradnorm/{stored}'], rtol=1e-4, err_msg=name)
