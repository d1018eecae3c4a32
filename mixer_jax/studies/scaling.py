"""Study of the number of training images: accuracy of models trained on parts of a split."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mixer_jax import models
from mixer_jax.errors import UserError
from mixer_jax.evaluation.statistics import mean_deviation
from mixer_jax.runs.fields import parse_numbers
from mixer_jax.runs.run_config import RunConfig
from mixer_jax.studies import scaling_report, study, study_config
from mixer_jax.studies.study import Planned, Run, StudyReport, Trained, Variation

_FIELDS = ('epochs', 'metric', 'models', 'percents', 'seeds')


@dataclasses.dataclass(frozen=True)
class ScalingConfig:
  """Attributes:
  seeds: runs of each model on each part.
  percents: sizes of the parts; each is the first images of an experiment's training split.
  epochs: passes over each part.
  metric: number that is compared, of the state that a run is reported by.
  models: name -> experiment.
  """

  seeds: int
  percents: tuple[float, ...]
  epochs: tuple[float, ...]
  metric: str
  models: Mapping[str, RunConfig]

  def __post_init__(self):
    percents, epochs = (','.join(f'{x:g}' for x in row) for row in (self.percents, self.epochs))
    if not all(0 < percent <= 100 for percent in self.percents):
      raise UserError(f'config.percents={percents}: each in (0, 100], and once')
    if len(set(self.percents)) < len(self.percents):
      raise UserError(f'config.percents={percents}: each in (0, 100], and once')
    if len(self.epochs) != len(self.percents) or min(self.epochs) <= 0:
      raise UserError(f'config.epochs={epochs}: more than 0 for each of {percents} %')

  @classmethod
  def from_fields(cls, fields: Mapping[str, Any]) -> 'ScalingConfig':
    """The config of the fields of configs/data_scaling.py; raises `UserError` for others."""
    study_config.check_names(fields, _FIELDS, ('models',), 'configs/data_scaling.py')
    return cls(
      seeds=study_config.seeds(fields['seeds']),
      percents=parse_numbers('config.percents', fields['percents'], float),
      epochs=parse_numbers('config.epochs', fields['epochs'], float),
      metric=fields['metric'],
      models=study_config.experiments('models', fields['models']),
    )


def run(config: ScalingConfig | Mapping[str, Any], workdir: str) -> StudyReport | None:
  """Trains each model on each part of its training split, from several seeds, and compares them.

  Runs that are in `workdir` already are resumed. Process 0 writes `scaling.json` and
  `scaling.png` there, and returns the report; other processes return None.
  """
  config = study_config.typed(ScalingConfig, config)
  runs = plan(config, workdir)
  study.join('scaling', config, workdir, runs[0].config.processes)
  planned = study.check(runs)
  _check_metric(config.metric, planned)
  trained = study.train_all(planned)
  return study.finish(workdir, 'scaling', lambda: report(config.metric, trained), scaling_report)


def plan(config: ScalingConfig, workdir: str) -> list[Run]:
  """All runs of the study."""

  def vary(model: str, own: RunConfig) -> list[Variation]:
    return [
      Variation(
        name=f'{model} on {percent:g} %',
        folder=f'{model.replace("/", "_")}/{percent:g}',
        fields={
          'total_epochs': epochs,
          'data.train_split': _part(model, own.data.train_split, percent),
        },
        labels={'percent': percent},
      )
      for percent, epochs in zip(config.percents, config.epochs, strict=True)
    ]

  return study.expand(config.models, config.seeds, workdir, vary)


def _part(model: str, split: str, percent: float) -> str:
  """First images of a split: 3 % of 'train[:90%]' are 'train[:2.7%]'."""
  found = re.fullmatch(r'(\w+)(?:\[:([\d.]+)%\])?', split)
  if found is None:
    raise UserError(
      f"{model}: config.data.train_split {split!r} cannot be cut into parts: 'train' or "
      "'train[:99%]' can"
    )
  return split if percent == 100 else f'{found[1]}[:{percent * float(found[2] or 100) / 100:g}%]'


def _check_metric(metric: str, planned: Sequence[Planned]) -> None:
  for one in planned:
    if metric not in one.experiment.metrics():
      raise UserError(
        f'config.metric is {metric!r}, and {one.run.labels["model"]} is evaluated by '
        f'{", ".join(one.experiment.metrics())}'
      )


def report(metric: str, trained: Sequence[Trained]) -> dict[str, Any]:
  """Content of `scaling.json`: for each model, the results of its runs on each part."""
  values: dict[str, Any] = {}
  for one in trained:
    experiment, result = one.experiment, one.result
    parts = values.setdefault(one.run.labels['model'], _about(metric, one))['parts']
    part = parts.setdefault(
      f'{one.run.labels["percent"]:g}',
      {
        'images': len(experiment.source),
        'epochs': one.run.config.total_epochs,
        'steps': experiment.total_steps,
        'runs': [],
      },
    )
    ended = {'ended': result.step, 'best': result.best_step}
    part['runs'].append({'seed': one.run.config.seed, **ended, metric: result.numbers[metric]})
  for model in values.values():
    for part in model['parts'].values():
      part |= mean_deviation([run[metric] for run in part['runs']])._asdict()
  return values


def _about(metric: str, one: Trained) -> dict[str, Any]:
  model = one.experiment.model
  return {
    'variant': models.variant_of(model),
    'parameters': models.num_params(model),
    'gflop': models.forward_flops(model) / 1e9,
    'metric': metric,
    'of': one.experiment.metrics()[metric],
    'parts': {},
  }
