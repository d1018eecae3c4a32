"""Params <-> files."""

from mixer_jax.checkpoints.layouts import save
from mixer_jax.checkpoints.load import (
  Checkpoint,
  adapted,
  load,
  read,
  read_knowing,
  with_arithmetic,
)

__all__ = ['Checkpoint', 'adapted', 'load', 'read', 'read_knowing', 'save', 'with_arithmetic']
