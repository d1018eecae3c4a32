"""Transfer to many tasks: the learning rate to take, what runs came to, and the paper's figures."""

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


@dataclasses.dataclass(frozen=True)
class Published:
  """A row of the paper's tables: a Mixer after fine-tuning, percent."""

  variant: str
  data: str
  """What it was pre-trained on: 'imagenet2012', 'imagenet21k' or 'jft300m'."""
  epochs: int
  size: int
  """Of the images, pixels; VTAB-1k's tasks have sizes of their own."""
  table: int
  imagenet: float
  avg5: float
  vtab: float | None = None

  def figures(self) -> dict[str, float]:
    """By the names of tasks and suites."""
    figures = {'avg5/imagenet': self.imagenet, 'avg5': self.avg5, 'vtab': self.vtab}
    return {name: value for name, value in figures.items() if value is not None}


# Table 3 has L/16 from ImageNet-21k at 448 px once more, by another evaluation crop than ours is
# there (83.91 and 93.86).
PAPER = (
  Published('B/16', 'imagenet2012', 300, 224, 3, 76.44, 88.33),
  Published('L/16', 'imagenet2012', 300, 224, 3, 71.76, 87.25),
  Published('B/16', 'imagenet21k', 300, 224, 3, 80.64, 92.50),
  Published('L/16', 'imagenet21k', 300, 224, 3, 82.89, 93.63),
  Published('L/16', 'imagenet21k', 300, 448, 2, 84.15, 93.91, 74.95),
  Published('S/32', 'jft300m', 5, 224, 3, 68.70, 87.13),
  Published('B/32', 'jft300m', 7, 224, 3, 75.53, 90.99),
  Published('S/16', 'jft300m', 5, 224, 3, 73.83, 89.50),
  Published('B/16', 'jft300m', 7, 224, 3, 80.00, 92.60),
  Published('L/32', 'jft300m', 7, 224, 3, 80.67, 93.24),
  Published('L/16', 'jft300m', 7, 224, 3, 84.05, 94.51),
  Published('L/16', 'jft300m', 14, 224, 3, 84.82, 94.77),
  Published('H/14', 'jft300m', 14, 224, 3, 86.32, 95.49),
  Published('L/16', 'jft300m', 14, 448, 3, 86.78, 95.13),
  Published('H/14', 'jft300m', 14, 448, 2, 87.94, 95.71, 75.33),
)


def published(variant: str, data: str | None) -> list[Published]:
  """The paper's rows of a variant, pre-trained on `data`; None: it is not known on what."""
  return [row for row in PAPER if row.variant == variant and data in (None, row.data)]
