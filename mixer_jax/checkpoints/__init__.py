"""Params <-> files."""

from mixer_jax.checkpoints.layouts import save
from mixer_jax.checkpoints.load import Checkpoint, adapted, load, read, with_arithmetic

__all__ = ['Checkpoint', 'adapted', 'load', 'read', 'save', 'with_arithmetic']
