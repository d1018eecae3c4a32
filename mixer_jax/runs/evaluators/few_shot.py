"""Few-shot accuracy, see `evaluation.fewshot`. In `config.evals`: as `config.fewshot`."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

from mixer_jax.data.catalog import open_source
from mixer_jax.data.source import Source
from mixer_jax.data.subset import SourceLabels
from mixer_jax.evaluation.fewshot import FewShot, authors_split
from mixer_jax.runlog.progress import reading
from mixer_jax.runs.data_splits import open_split, with_classes_of
from mixer_jax.runs.evaluation_setup import this_process
from mixer_jax.runs.evaluators.evaluator import Context, Evaluator, Row
from mixer_jax.runs.fields import build
from mixer_jax.runs.run_config import FewShotFields
from mixer_jax.runs.trained_images import warn_if_trained_on


def prepare(row: Row, context: Context) -> 'PeriodicFewShot':
  """Return few-shot accuracy with its images chosen.

  Raises:
    UserError: a field is wrong, there is no such data, or a class has too few images.
  """
  fields = build(FewShotFields, {'every': row.every, **row.fields}, row.group)
  setup = context.setup
  data = dataclasses.replace(fields.read_as(setup.data), name=fields.name or setup.data.name)
  split = fields.train_split or authors_split(data.name)
  train, labels = _labelled(data.name, split, data.data_dir, data.folder_rules, data.label_threads)
  test = with_classes_of(train, open_split(data, fields.eval_split))
  warn_if_trained_on(test, train, context.train)
  evaluate = FewShot(
    context.model, fields.config(), train, test, data, setup.mesh,
    batch_size=setup.batch_size, process=this_process(setup.mesh), train_labels=labels,
    progress=functools.partial(reading, keep=False),
  )  # fmt: skip
  return PeriodicFewShot(row, test.name, fields.shots, evaluate)


@functools.lru_cache(maxsize=1)
def _labelled(
  name: str, split: str, data_dir: str, folder_rules: int, threads: int
) -> tuple[Source, SourceLabels]:
  """Return a split and its labels: the runs of a study share what was read of them."""
  source = open_source(name, split, data_dir, folder_rules)
  return source, SourceLabels(source, threads=threads)


class PeriodicFewShot(Evaluator):
  """Few-shot accuracy as a part of some of a run's evaluations."""

  def __init__(self, row: Row, data: str, shots: Sequence[int], evaluate: FewShot):
    super().__init__(row, data)
    self._shots, self._evaluate = shots, evaluate

  def metrics(self) -> Sequence[str]:
    """Return '5-shot' for each number of shots."""
    return [f'{shots}-shot' for shots in self._shots]

  def __call__(self, step: int, params: dict) -> dict[str, float]:
    """Return the accuracy for each number of shots, and its deviation over seeds."""
    return self._evaluate(params)

  def summary(self, numbers: Mapping[str, float]) -> str:
    """Return the accuracies in words."""
    figures = ', '.join(f'{name} {numbers[name]:.2f} %' for name in self.metrics())
    return f'{figures} of {self.data}'

  def labels(self) -> dict[str, str]:
    """Return the name of the images, which may be others than those of the run."""
    return {'data': self.data, **super().labels()}
