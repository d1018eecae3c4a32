"""Study of shuffled pixels (section 3.4): their cost for models of several families."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mixer_jax import models
from mixer_jax.data.permute import INPUTS
from mixer_jax.evaluation.statistics import mean_deviation
from mixer_jax.runs.run_config import RunConfig
from mixer_jax.studies import permutation_report, study, study_config
from mixer_jax.studies.study import Run, StudyReport, Trained, Variation


@dataclasses.dataclass(frozen=True)
class PermutationConfig:
  """Attributes:
  seeds: runs of each model on each kind of input.
  models: name -> experiment.
  """

  seeds: int
  models: Mapping[str, RunConfig]

  @classmethod
  def from_fields(cls, fields: Mapping[str, Any]) -> 'PermutationConfig':
    """The config of the fields of configs/permutation.py; raises `UserError` for others."""
    names = ('seeds', 'models')
    study_config.check_names(fields, names, ('models',), 'configs/permutation.py')
    return cls(
      study_config.seeds(fields['seeds']), study_config.experiments('models', fields['models'])
    )


def run(config: PermutationConfig | Mapping[str, Any], workdir: str) -> StudyReport | None:
  """Trains each model on each kind of input from several seeds, and compares them.

  Runs that are in `workdir` already are resumed. Process 0 writes `permute.json` and
  `permute.png` there, and returns the report; other processes return None.
  """
  config = study_config.typed(PermutationConfig, config)
  runs = plan(config, workdir)
  study.join('permute', config, workdir, runs[0].config.processes)
  trained = study.train_all(study.check(runs))
  return study.finish(workdir, 'permute', lambda: report(trained), permutation_report)


def plan(config: PermutationConfig, workdir: str) -> list[Run]:
  """All runs of the study."""

  def vary(model: str, _: RunConfig) -> list[Variation]:
    return [
      Variation(
        f'{model} on {kind}', f'{model}/{kind}', {'data.permutation': kind}, {'inputs': kind}
      )
      for kind in INPUTS
    ]

  return study.expand(config.models, config.seeds, workdir, vary)


def report(trained: Sequence[Trained]) -> dict[str, Any]:
  """Content of `permute.json`: the outcomes and curves of each model, by kind of input."""
  values: dict[str, Any] = {}
  for name in dict.fromkeys(one.run.labels['model'] for one in trained):
    own = [one for one in trained if one.run.labels['model'] == name]
    model = own[0].experiment.model
    by_kind = {kind: [one for one in own if one.run.labels['inputs'] == kind] for kind in INPUTS}
    summary = outcomes(
      {kind: [one.result.numbers['top1'] for one in ones] for kind, ones in by_kind.items()}
    )
    values[name] = {
      'variant': models.variant_of(model),
      'parameters': models.num_params(model),
      'gflop': models.forward_flops(model) / 1e9,
      'steps': max(max(one.result.curve('top1')) for one in own),
      'data': own[0].run.config.data.name,
      'inputs': {
        kind: {
          **dataclasses.asdict(summary[kind]),
          'seeds': [one.run.config.seed for one in ones],
          'top1': [one.result.curve('top1') for one in ones],
        }
        for kind, ones in by_kind.items()
      },
    }
  return values


@dataclasses.dataclass(frozen=True)
class Outcome:
  """Results of a model's runs on one kind of input, over seeds.

  Attributes:
    mean, deviation: of the metric at the end; the latter over seeds (n - 1), None of one.
    lost: difference of the metric to that of unchanged images; negative: gained.
    noise: standard error of `lost`, from the deviations of both; None of one seed.
    relative_loss: `lost` as a share of the metric on unchanged images.
  """

  mean: float
  deviation: float | None
  lost: float
  noise: float | None
  relative_loss: float


def outcomes(finals: Mapping[str, Sequence[float]]) -> dict[str, Outcome]:
  """Kind of input -> its outcome, from the metric of each seed's run at its end.

  The others are compared with 'none', unchanged images.
  """
  base = mean_deviation(finals['none'])

  def outcome(kind: str) -> Outcome:
    mean, deviation = mean_deviation(finals[kind])
    noise = None
    if kind == 'none':
      noise = 0.0
    elif deviation is not None and base.deviation is not None:
      squares = (base.deviation**2 / len(finals['none']), deviation**2 / len(finals[kind]))
      noise = math.sqrt(sum(squares))
    lost = base.mean - mean
    return Outcome(mean, deviation, lost, noise, lost / base.mean)

  return {kind: outcome(kind) for kind in finals}
