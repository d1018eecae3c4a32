"""Temporary: today's runs behind tomorrow's names."""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mixer_jax.data import pipeline
from mixer_jax.runlog.startup import Startup
from mixer_jax.runs import experiment, loaded_model, run_config, training_run
from mixer_jax.runs.experiment import Evaluated, Experiment


class RunConfig:
  def __init__(self, fields: ConfigDict):
    self._fields = fields

  @classmethod
  def from_fields(cls, fields) -> 'RunConfig':
    own = ConfigDict(fields if isinstance(fields, dict) else fields.to_dict())
    experiment.check_fields(own)
    return cls(own)

  def to_fields(self) -> dict:
    return self._fields.to_dict()

  def with_fields(self, changes: Mapping[str, Any]) -> 'RunConfig':
    own = self._fields.copy_and_resolve_references()
    with own.unlocked():
      for name, value in changes.items():
        node = own
        *groups, last = name.split('.')
        for group in groups:
          node = node[group]
        node[last] = value
    return RunConfig.from_fields(own)

  def __getattr__(self, name):
    if name == 'processes':
      return run_config.build(experiment.ProcessesConfig, self._fields.processes, 'processes')
    if name == 'data':
      return experiment.data_of(self._fields)
    return getattr(self._fields, name)


def build_experiment(config: RunConfig, known_model=None) -> Experiment:
  return experiment.check(config._fields, known_model)


@dataclasses.dataclass(frozen=True)
class EvaluationSetup(Evaluated):
  def batches(self, image_size):
    return pipeline.eval_batches(
      self.source, self.data, image_size=image_size, batch_size=self.batch_size,
      process=experiment.this_process(),
    )  # fmt: skip


def setup_of(on: Evaluated) -> EvaluationSetup:
  return EvaluationSetup(on.data, on.mesh, on.batch_size, on.source)


@dataclasses.dataclass(frozen=True)
class LoadedModel:
  checkpoint: Any
  model: Any
  setup: EvaluationSetup
  config: Any


def load_for_evaluation(path, config: RunConfig, *, recipe=None, gelu=None, input_range=None):
  args = types.SimpleNamespace(recipe=recipe, gelu=gelu, input_range=input_range)
  seen = loaded_model.look_at(path, args, config._fields, [], None)
  return LoadedModel(seen.checkpoint, seen.model, setup_of(seen.on), config)


def train(config: RunConfig, folder: str) -> None:
  training_run.run(config._fields, folder, Startup(), one_of_many=True)
