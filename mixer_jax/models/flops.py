"""Floating-point operations of a model, counted in the program that JAX traces."""

import functools
import math

import jax
import jax.numpy as jnp
from jax.extend.core import jaxprs_in_params

from mixer_jax.models import dispatch


@functools.lru_cache(maxsize=256)
def forward_flops(config) -> int:
  """Number of floating-point operations of one image's forward pass, 2 per multiply-add.

  Matrix multiplies and convolutions only, the usual convention for MFU; positions of a kernel on
  the padding of an image count like the others. XLA's count, which adds normalisation,
  nonlinearities and skip connections, is at most 2 % higher for the paper's variants.
  """
  size = config.image_size
  images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  weights = dispatch.shapes(config)
  program = jax.make_jaxpr(lambda params, x: dispatch.apply(config, params, x))(weights, images)
  return _count(program.jaxpr)


def _count(jaxpr) -> int:
  total = 0
  for equation in jaxpr.eqns:
    name = equation.primitive.name
    if name == 'dot_general':
      total += _dot(equation)
    elif name == 'conv_general_dilated':
      total += _convolution(equation)
    inner = [_count(jaxpr) for jaxpr in jaxprs_in_params(equation.params)]
    if name == 'cond':  # one of the branches runs, such as that of the platform
      total += max(inner)
    else:
      total += sum(inner) * (equation.params['length'] if name == 'scan' else 1)
  return total


def _dot(equation) -> int:
  (contracted, _), _ = equation.params['dimension_numbers']
  left = equation.invars[0].aval.shape
  return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)


def _convolution(equation) -> int:
  kernel = equation.invars[1].aval.shape
  outputs = kernel[equation.params['dimension_numbers'].rhs_spec[0]]
  return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // outputs
