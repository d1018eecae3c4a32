"""Interface of the evaluations during a run."""

import abc
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from mixer_jax.data.source import Source
from mixer_jax.errors import UserError
from mixer_jax.evaluation import classify
from mixer_jax.models import ModelConfig
from mixer_jax.runs.evaluation_setup import EvaluationSetup


@dataclasses.dataclass(frozen=True)
class Row:
  """One evaluation as the config describes it.

  Attributes:
    name: of the row in `config.evals`.
    kind: a name in `registry.KINDS`.
    every: each n-th evaluation of the run has it, and so has the final report.
    fields: what else the config says of it; each kind has its own.
    event: name of its rows in `metrics.jsonl`.
    is_extra: a row of `config.evals`; its figures are called NAME/FIGURE.
  """

  name: str
  kind: str
  every: int
  fields: Mapping[str, Any]
  event: str
  is_extra: bool = False

  def __post_init__(self):
    if type(self.every) is not int or self.every < 1:
      raise UserError(
        f'config.evals.{self.name}.every must be a positive whole number of evaluations, is '
        f'{self.every!r}'
      )

  @property
  def group(self) -> str:
    """Name of the row in messages, below `config`."""
    return f'evals.{self.name}' if self.is_extra else self.name


@dataclasses.dataclass(frozen=True)
class Context:
  """Parts of the run that an evaluation is prepared with.

  Attributes:
    model: the model that is trained.
    setup: the evaluation split of the run, and the devices.
    train: the training split.
    loss: that the model is trained with.
  """

  model: ModelConfig
  setup: EvaluationSetup
  train: Source
  loss: str

  @functools.cached_property
  def eval_step(self) -> classify.EvalStep:
    """The jitted classification step, compiled once for all evaluations."""
    return classify.make_eval_step(self.model, self.setup.mesh, loss=self.loss)


class Evaluator(abc.ABC):
  """One evaluation of a run, prepared: it may be called at any step.

  Attributes:
    row: how the config describes it.
    data: the images, as in 'imagenet2012/validation'.
  """

  def __init__(self, row: Row, data: str):
    self.row, self.data = row, data

  @abc.abstractmethod
  def metrics(self) -> Sequence[str]:
    """Return the names of the figures that may decide which state is the best."""

  @abc.abstractmethod
  def __call__(self, step: int, params: dict) -> dict[str, float]:
    """Return the figures of the params of this step; all processes call it alike.

    Args:
      params: on the mesh.
    """

  def is_due(self, step: int, eval_every: int) -> bool:
    """Return True if the evaluation of this step includes this one; the final report always does.

    Args:
      eval_every: steps between evaluations; 0: there is one at the end only.
    """
    return eval_every > 0 and step % (self.row.every * eval_every) == 0

  def summary(self, numbers: Mapping[str, float]) -> str:
    """Return the figures in words, for the log."""
    figures = ', '.join(f'{name} {value:.4g}' for name, value in numbers.items())
    return f'{self.row.name}: {figures} of {self.data}'

  def qualified(self, figure: str) -> str:
    """Return the name of a figure among those of all evaluations: 'top1', or 'probe/top1'."""
    return f'{self.row.name}/{figure}' if self.row.is_extra else figure

  def labels(self) -> dict[str, str]:
    """Return what a row of `metrics.jsonl` holds in addition to the figures."""
    return {'evaluator': self.row.name, 'data': self.data} if self.row.is_extra else {}
