"""Scores of transfer to many tasks: the learning rate to use, and means of groups and suites."""

import dataclasses
from collections.abc import Mapping, Sequence

from mixer_jax.data.tasks import find_task, names, suite
from mixer_jax.evaluation.statistics import MeanDeviation, mean_deviation


@dataclasses.dataclass(frozen=True)
class Score:
  """Score of a run on the part that it is evaluated on."""

  top1: float
  """Percent."""
  loss: float
  """Nats."""


def best_rate(scores: Mapping[float, Score]) -> float:
  """The learning rate of the highest top-1; of equal ones that of the lowest loss."""
  return max(scores, key=lambda rate: (scores[rate].top1, -scores[rate].loss))


def mean_scores(scores: Mapping[str, float]) -> dict[str, float]:
  """Means by group and by suite, of groups and suites all of whose tasks have a score.

  VTAB's score is the mean over its 19 tasks, not over its groups: of the 3 groups, structured
  has 8 tasks and specialised 4 (VTAB paper, arXiv 1910.04867).

  Args:
    scores: task -> score, in any unit; tasks of one or several suites.

  Returns:
    Those of 'natural', 'specialised', 'structured', 'vtab' and 'avg5' that are complete.

  Raises:
    UserError: a name is not that of a task.
  """
  for name in scores:
    find_task(name)
  means = {}
  for suite_name in dict.fromkeys(name.split('/')[0] for name in names()):
    tasks = suite(suite_name)
    for group in dict.fromkeys([*(task.group for task in tasks), suite_name]):
      own = [task.name for task in tasks if group in (task.group, suite_name)]
      if all(name in scores for name in own):
        means[group] = sum(scores[name] for name in own) / len(own)
  return means


def group_means(top1: Mapping[str, Sequence[float]]) -> dict[str, MeanDeviation]:
  """Group or suite -> its mean over tasks, for those whose tasks are all there.

  Args:
    top1: task -> one value for each seed. The deviation is that of the seeds' means, seed i of
      one task together with seed i of the others.
  """
  seeds = zip(*top1.values(), strict=True)
  means = [mean_scores(dict(zip(top1, values, strict=True))) for values in seeds]
  if not means:
    return {}
  return {group: mean_deviation([mean[group] for mean in means]) for group in means[0]}
