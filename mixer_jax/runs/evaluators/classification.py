"""Classification of a whole split. In `config.evals`: `name` and `split` of other images."""

import dataclasses
from collections.abc import Mapping, Sequence

from mixer_jax.evaluation import classify
from mixer_jax.models import ModelConfig
from mixer_jax.runlog.progress import reading
from mixer_jax.runs.data_splits import open_split, with_classes_of
from mixer_jax.runs.evaluation_setup import EvaluationSetup
from mixer_jax.runs.evaluators.evaluator import Context, Evaluator, Row
from mixer_jax.runs.fields import build
from mixer_jax.runs.trained_images import warn_if_trained_on


@dataclasses.dataclass(frozen=True)
class _Fields:
  """The images: those of `config.data` where these are ''."""

  name: str = ''
  split: str = ''


def prepare(row: Row, context: Context) -> 'Classification':
  """Return classification of the evaluation split, or of the images that the row names."""
  fields, setup = build(_Fields, row.fields, row.group), context.setup
  if fields.name or fields.split:
    source = open_split(setup.data, fields.split or setup.data.eval_split, fields.name)
    warn_if_trained_on(source, context.train)
    setup = dataclasses.replace(setup, source=with_classes_of(context.train, source))
  return Classification(row, context.model, setup, context.eval_step)


class Classification(Evaluator):
  """Top-1, top-5, ReaL (where there are such labels) and loss of a split.

  Attributes:
    last: (step, result) of the last call.
  """

  def __init__(self, row: Row, model: ModelConfig, setup: EvaluationSetup, step: classify.EvalStep):
    super().__init__(row, setup.source.name)
    self._model, self._setup, self._step = model, setup, step
    self.last: tuple[int, classify.Evaluation] | None = None

  def metrics(self) -> Sequence[str]:
    """Return top1, top5, loss, and real where there are ReaL labels."""
    return ['top1', 'top5', 'loss', *(['real'] if self._setup.source.accepted else [])]

  def is_due(self, step: int, eval_every: int) -> bool:
    """Return True at every evaluation by default, also at the only one at the end."""
    return self.row.every == 1 or super().is_due(step, eval_every)

  def __call__(self, step: int, params: dict) -> dict[str, float]:
    """Return the figures of `evaluation.classify`; each image is counted once."""
    setup = self._setup
    size, what = len(setup.source), f'images of {self.data}'
    batches = reading(
      setup.batches(self._model.image_size), setup.batch_size, size, what, keep=False
    )
    result = classify.evaluate(self._step, params, batches, setup.mesh, size=size)
    self.last = step, result
    return result.numbers()

  def summary(self, numbers: Mapping[str, float]) -> str:
    """Return top-1 and loss in words."""
    return (
      f'top-1 {numbers["top1"]:.2f} % of {numbers["examples"]} images of {self.data}, '
      f'loss {numbers["loss"]:.4f}'
    )
