"""Transfer to many tasks: the learning rate to take, and what runs came to."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

from mixer_jax.data.tasks import mean_scores


@dataclasses.dataclass(frozen=True)
class Score:
  """What a run came to on the part that it was scored with."""

  top1: float
  """Percent."""
  loss: float
  """Nats."""


def best_rate(scores: Mapping[float, Score]) -> float:
  """The learning rate of the highest top-1; of equal ones that of the lowest loss."""
  return max(scores, key=lambda rate: (scores[rate].top1, -scores[rate].loss))


@dataclasses.dataclass(frozen=True)
class Mean:
  """Over seeds, percent."""

  mean: float
  deviation: float | None
  """Of one run, with n - 1; None of one seed."""

  @classmethod
  def of(cls, values: Sequence[float]) -> 'Mean':
    return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def group_means(top1: Mapping[str, Sequence[float]]) -> dict[str, Mean]:
  """Group or suite -> its mean over tasks, of those whose tasks are all there.

  Args:
    top1: by the names of tasks, one value a seed. The deviation is that of the seeds' means,
      seed i of one task beside seed i of the others.
  """
  seeds = zip(*top1.values(), strict=True)
  means = [mean_scores(dict(zip(top1, values, strict=True))) for values in seeds]
  return {group: Mean.of([mean[group] for mean in means]) for group in means[0]} if means else {}
