"""Mean and deviation of the figures of several runs."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple


class MeanDeviation(NamedTuple):
  """Mean of some values, and their sample standard deviation (n - 1); None of one value."""

  mean: float
  deviation: float | None


def mean_deviation(values: Sequence[float]) -> MeanDeviation:
  """Mean and sample standard deviation of at least one value."""
  deviation = statistics.stdev(values) if len(values) > 1 else None
  return MeanDeviation(statistics.fmean(values), deviation)
