"""Layers as pure functions of their own parameters, an array in and an array out.

Most are a Flax Linen module applied to a part of the dict of params: Linen keeps parameters outside
the module, under the names that the published files have (`kernel`, `bias`, `scale`), and settles
dtypes and float32 statistics.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen
from flax.linen.dtypes import promote_dtype


def dense(params: dict, x: jax.Array, dtype) -> jax.Array:
  """Linear map of the last axis."""
  module = linen.Dense(params['kernel'].shape[-1], use_bias='bias' in params, dtype=dtype)
  return _apply(module, params, x)


def heads(params: dict, x_BSC: jax.Array, dtype) -> jax.Array:
  """Linear map of the last axis with a kernel (C, h, d), to (B, h, S, d)."""
  x_BSC, kernel, bias = promote_dtype(x_BSC, params['kernel'], params['bias'], dtype=dtype)
  return jnp.einsum('bsc,chd->bhsd', x_BSC, kernel) + bias[:, None]


def join_heads(params: dict, x_BhSd: jax.Array, dtype) -> jax.Array:
  """Linear map of all heads with a kernel (h, d, C), to (B, S, C)."""
  x_BhSd, kernel, bias = promote_dtype(x_BhSd, params['kernel'], params['bias'], dtype=dtype)
  return jnp.einsum('bhsd,hdc->bsc', x_BhSd, kernel) + bias


def attention_weights(query_BhSd: jax.Array, key_BhTd: jax.Array) -> jax.Array:
  """Return softmax(q·k / √d) over the keys, (B, h, S, T) float32."""
  scores = jnp.einsum('bhsd,bhtd->bhst', query_BhSd, key_BhTd, preferred_element_type=jnp.float32)
  return jax.nn.softmax(scores / math.sqrt(query_BhSd.shape[-1]))


GELUS = ('tanh', 'erf')
"""The approximation that the published weights were trained with, and the exact form."""


def gelu(x: jax.Array, kind: str) -> jax.Array:
  """GELU of one of the kinds."""
  return jax.nn.gelu(x, approximate=kind == 'tanh')


def skip_rate(config, block: int) -> float:
  """Probability of skipping each branch of a block in training, linear in depth."""
  return config.stochastic_depth * block / max(config.num_blocks - 1, 1)


def conv(params: dict, x_BHWC: jax.Array, dtype, *, stride: int = 1, padding: int = 0) -> jax.Array:
  """Convolution with a kernel HWIO, with `padding` zeros around the image."""
  kernel = params['kernel']
  module = linen.Conv(
    kernel.shape[-1],
    kernel.shape[:2],
    strides=stride,
    padding=padding,
    use_bias='bias' in params,
    dtype=dtype,
  )
  if kernel.shape[:2] != (1, 1) or padding:
    return _apply(module, params, x_BHWC)

  def multiply(params, x_BHWC):
    """One multiply of matrices: XLA's convolution on a CPU takes 1.5 to 6 times as long."""
    x_BHWC = x_BHWC[:, ::stride, ::stride]
    rows = x_BHWC.reshape(-1, x_BHWC.shape[-1])
    out = dense({**params, 'kernel': params['kernel'][0, 0]}, rows, dtype)
    return out.reshape(*x_BHWC.shape[:-1], kernel.shape[-1])

  return _by_platform(multiply, functools.partial(_apply, module), params, x_BHWC)


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

  Statistics, scale and bias are float32.
  """
  batch, _, _, channels = x_BHWC.shape
  module = linen.GroupNorm(groups, epsilon=1e-5, dtype=dtype, use_fast_variance=False)

  def mean(values_BHWC):
    means = values_BHWC.mean((1, 2)).reshape(batch, groups, -1).mean(-1)
    return jnp.repeat(means, channels // groups, axis=1)[:, None, None]

  def positions_first(params, x_BHWC):
    """Sum over positions, then over a group: both at once takes 3 to 10 times as long on a CPU."""
    x_BHWC = x_BHWC.astype(jnp.float32)
    x_BHWC -= mean(x_BHWC)
    x_BHWC *= jax.lax.rsqrt(mean(x_BHWC**2) + 1e-5) * params['scale']
    return (x_BHWC + params['bias']).astype(dtype)

  return _by_platform(positions_first, functools.partial(_apply, module), params, x_BHWC)


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


def _by_platform(on_cpu, elsewhere, params: dict, x: jax.Array) -> jax.Array:
  """`on_cpu` in programs for CPUs, `elsewhere` in others; both give the same, up to rounding."""
  return jax.lax.platform_dependent(params, x, cpu=on_cpu, default=elsewhere)
