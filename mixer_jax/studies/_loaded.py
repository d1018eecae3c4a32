"""Temporary: until runs.loaded_model has these."""

import types

from mixer_jax.runs import loaded_model

LoadedModel = types.SimpleNamespace


def load_for_evaluation(path, config, *, recipe=None, gelu=None, input_range=None):
  args = types.SimpleNamespace(recipe=recipe, gelu=gelu, input_range=input_range)
  seen = loaded_model.look_at(path, args, config, [], None)
  return LoadedModel(checkpoint=seen.checkpoint, model=seen.model, setup=seen.on, config=config)
