"""How long forward passes take, beside each other on one device."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from mixer_jax import models
from mixer_jax.models import ModelConfig


class Latency(NamedTuple):
  """Of one model."""

  seconds: float
  """Median over the rounds."""
  ratio: float
  """Median over the rounds of its seconds to the first model's."""


def latencies(
  mixers: Sequence[tuple[ModelConfig, dict]], *, batch_size: int, rounds: int
) -> list[Latency]:
  """How long a forward pass of each model takes.

  They take turns in every round, so that what else the machine does meets all alike.

  Args:
    mixers: models, and their params on one device; they may share arrays.
    batch_size: images in a pass, uint8 noise.
    rounds: passes of each model that are timed; one before them compiles.
  """
  runs = [_run(config, params, batch_size) for config, params in mixers]
  for run in runs:
    run()
  seconds = np.array([[_time(run) for run in runs] for _ in range(rounds)])
  ratios = seconds / seconds[:, :1]
  medians = zip(*(np.median(of, axis=0).tolist() for of in (seconds, ratios)), strict=True)
  return [Latency(*of_model) for of_model in medians]


def _run(config: ModelConfig, params: dict, batch_size: int) -> Callable[[], jax.Array]:
  shape = (batch_size, config.image_size, config.image_size, 3)
  noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  images = jax.device_put(noise, params['head']['bias'].sharding)
  forward = jax.jit(lambda params, images: models.apply(config, params, images))
  return lambda: jax.block_until_ready(forward(params, images))


def _time(run: Callable[[], jax.Array]) -> float:
  begun = time.perf_counter()
  run()
  return time.perf_counter() - begun
