"""What is watched while a run trains: few-shot accuracy, and which evaluation is the best."""

import dataclasses
import functools

from ml_collections import ConfigDict

from mixer_jax.data.catalog import open_source
from mixer_jax.data.pipeline import DataConfig, Process
from mixer_jax.data.source import Source
from mixer_jax.errors import UserError
from mixer_jax.evaluation.fewshot import FewShot, FewShotConfig, SourceLabels
from mixer_jax.runs import config_file
from mixer_jax.runs.run_config import build
from mixer_jax.training.early_stopping import EarlyStoppingConfig


@dataclasses.dataclass(frozen=True)
class _Fields:
  """`config.fewshot`; see configs/common.py."""

  every: int
  name: str
  train_split: str
  eval_split: str
  shots: str
  seeds: int
  l2: float
  constant: float
  max_reads: int

  def __post_init__(self):
    if type(self.every) is not int or self.every < 0:
      raise UserError(
        f'config.fewshot.every must be a whole number, 0 for never, is {self.every!r}'
      )


@dataclasses.dataclass(frozen=True)
class FewShotWatch:
  """Few-shot accuracy as a part of some of a run's evaluations."""

  every: int
  """The evaluations of which one has it."""
  data: str
  """What it is of, as in 'imagenet2012/validation'."""
  shots: tuple[int, ...]
  evaluate: FewShot

  def is_due(self, step: int, eval_every: int) -> bool:
    """Whether the evaluation of this step has it; what is reported at the end always does."""
    return eval_every > 0 and step % (self.every * eval_every) == 0


def few_shot_of(
  config: ConfigDict, model, data: DataConfig, mesh, batch_size: int, process: Process
) -> FewShotWatch | None:
  """What `config.fewshot` asks for, its images chosen; None: nothing.

  Raises:
    UserError: a field is wrong, there is no such data, or it has too few images of a class.
  """
  fields = build(_Fields, config.fewshot, 'fewshot')
  shots = config_file.numbers('config.fewshot.shots', fields.shots, int)
  few = FewShotConfig(shots, fields.seeds, fields.l2, fields.constant, fields.max_reads)
  if not fields.every:
    return None
  own = dataclasses.replace(data, name=fields.name or data.name)
  train, labels = _labelled(own.name, fields.train_split, own.data_dir, own.threads)
  test = open_source(own.name, fields.eval_split, own.data_dir)
  evaluate = FewShot(
    model, few, train, test, own, mesh,
    batch_size=batch_size, process=process, train_labels=labels,
  )  # fmt: skip
  return FewShotWatch(fields.every, test.name, shots, evaluate)


@functools.lru_cache(maxsize=1)
def _labelled(name: str, split: str, data_dir: str, threads: int) -> tuple[Source, SourceLabels]:
  """A split, and its labels: the runs of a study share what was read of them."""
  source = open_source(name, split, data_dir)
  return source, SourceLabels(source, threads=threads)


def metrics_of(source: Source, few_shot: FewShotWatch | None) -> list[str]:
  """Names of the figures that evaluations on `source` give."""
  real = ['real'] if source.accepted else []
  few = [f'{shots}-shot' for shots in few_shot.shots] if few_shot else []
  return ['top1', 'top5', 'loss', *real, *few]


def early_stopping_of(
  config: ConfigDict, source: Source, few_shot: FewShotWatch | None
) -> EarlyStoppingConfig:
  """When to stop and what is best, for evaluations on `source`.

  Raises:
    UserError: they lack the metric, or are never made.
  """
  stopping = build(EarlyStoppingConfig, config.early_stopping, 'early_stopping')
  known = metrics_of(source, few_shot)
  if stopping.metric not in known:
    few = '' if few_shot else '; N-shot with --config.fewshot.every=1'
    raise UserError(
      f'config.early_stopping.metric is {stopping.metric!r}, and the evaluations have '
      f'{", ".join(known)}{few}'
    )
  if stopping.patience and not config.eval_every:
    raise UserError('config.early_stopping.patience counts evaluations: set config.eval_every')
  return stopping
