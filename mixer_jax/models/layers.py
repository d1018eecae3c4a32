"""Layers as pure functions of their own parameters, an array in and an array out.

Most are a Flax Linen module applied to a part of the dict of params: Linen keeps parameters outside
the module, under the names that the published files have (`kernel`, `bias`, `scale`), and settles
dtypes and float32 statistics.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen


def dense(params: dict, x: jax.Array, dtype) -> jax.Array:
  """Linear map of the last axis."""
  module = linen.Dense(params['kernel'].shape[-1], use_bias='bias' in params, dtype=dtype)
  return _apply(module, params, x)


def dense_general(params: dict, x: jax.Array, dtype, *, axes: int = 1) -> jax.Array:
  """Linear map of the last `axes` axes to the other axes of the kernel."""
  module = linen.DenseGeneral(
    params['kernel'].shape[axes:], axis=tuple(range(-axes, 0)), dtype=dtype
  )
  return _apply(module, params, x)


def conv(params: dict, x_BHWC: jax.Array, dtype, *, stride: int = 1, padding: int = 0) -> jax.Array:
  """Convolution with a kernel HWIO, with `padding` zeros around the image."""
  kernel = params['kernel']
  if kernel.shape[:2] == (1, 1) and not padding:
    # A multiply of two matrices: XLA's convolution on a CPU takes 1.5 to 6 times as long.
    x_BHWC = x_BHWC[:, ::stride, ::stride]
    rows = x_BHWC.reshape(-1, x_BHWC.shape[-1])
    out = dense({**params, 'kernel': kernel[0, 0]}, rows, dtype)
    return out.reshape(*x_BHWC.shape[:-1], kernel.shape[-1])
  module = linen.Conv(
    kernel.shape[-1],
    kernel.shape[:2],
    strides=stride,
    padding=padding,
    use_bias='bias' in params,
    dtype=dtype,
  )
  return _apply(module, params, x_BHWC)


def standardized_conv(params: dict, x_BHWC: jax.Array, dtype, **how) -> jax.Array:
  """Convolution whose kernel is brought to mean 0 and variance 1 for each output."""
  kernel = params['kernel']
  axes = (0, 1, 2)
  variance = kernel.var(axes, keepdims=True)  # two passes: the default loses digits
  kernel = jax.nn.standardize(kernel, axes, variance=variance, epsilon=1e-10)
  return conv({**params, 'kernel': kernel}, x_BHWC, dtype, **how)


def layer_norm(params: dict, x: jax.Array, dtype) -> jax.Array:
  """Mean 0 and variance 1 over the last axis; statistics, scale and bias are float32."""
  return _apply(linen.LayerNorm(epsilon=1e-6, dtype=dtype), params, x)


def group_norm(params: dict, x_BHWC: jax.Array, dtype, *, groups: int) -> jax.Array:
  """Mean 0 and variance 1 over the positions of an image and a group of adjacent channels.

  Statistics, scale and bias are float32. Sums run over the positions first, then over the channels
  of a group: Linen's GroupNorm, which reduces both at once, takes 3 to 10 times as long on a CPU.
  """
  batch, _, _, channels = x_BHWC.shape
  x_BHWC = x_BHWC.astype(jnp.float32)

  def mean(values_BHWC):
    means = values_BHWC.mean((1, 2)).reshape(batch, groups, -1).mean(-1)
    return jnp.repeat(means, channels // groups, axis=1)[:, None, None]

  x_BHWC -= mean(x_BHWC)
  x_BHWC *= jax.lax.rsqrt(mean(x_BHWC**2) + 1e-5) * params['scale']  # two passes: exact
  return (x_BHWC + params['bias']).astype(dtype)


def max_pool(x_BHWC: jax.Array, size: int, stride: int, padding: int) -> jax.Array:
  """Maximum over windows of an image framed by zeros."""
  frame = (padding, padding)
  framed = jnp.pad(x_BHWC, ((0, 0), frame, frame, (0, 0)))
  return linen.max_pool(framed, (size, size), (stride, stride))


def drop(x: jax.Array, rate: float, key: jax.Array | None, axes: Sequence[int] = ()) -> jax.Array:
  """Set values to zero with this probability, and nothing without a key.

  Kept values are not divided by their probability.

  Args:
    axes: along which all values are dropped or kept together.
  """
  if key is None or not rate:
    return x
  shape = tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))
  return jnp.where(jax.random.bernoulli(key, 1 - rate, shape), x, 0)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
  """Set values to zero with this probability and scale the others up; nothing without a key."""
  if key is None or not rate:
    return x
  return drop(x / (1 - rate), rate, key)


def _apply(module: linen.Module, params: dict, x: jax.Array) -> jax.Array:
  return module.apply({'params': params}, x)  # pyright: ignore[reportReturnType]
