"""The permutation experiment (section 3.4): what shuffled pixels cost a model.

A Mixer's token mixing knows no neighbours, and its stem no positions in a patch. So shuffling the
patches, and the pixels in all of them alike, costs it nothing: its capability `match_permutation`
returns the Mixer that proves it. `outcomes` sums up what runs on shuffled images have lost.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What a model's runs on one kind of input came to, over seeds.

  Attributes:
    mean, deviation: of the metric at the end; the latter over seeds (n - 1), NaN of one.
    lost: of the metric, against the runs on images as they are; negative: gained.
    noise: standard error of `lost`, from the deviations of both; NaN of one seed.
    relative_loss: `lost` as a share of the metric on images as they are.
  """

  mean: float
  deviation: float
  lost: float
  noise: float
  relative_loss: float


def outcomes(finals: Mapping[str, Sequence[float]]) -> dict[str, Outcome]:
  """Kind of input -> its outcome, from the metric of each seed's run at its end.

  'none', images as they are, is what the others are measured by.
  """
  plain = np.asarray(finals['none'], float)

  def outcome(kind: str) -> Outcome:
    seeds = np.asarray(finals[kind], float)
    lost = plain.mean() - seeds.mean()
    noise = math.hypot(*(_deviation(x) / math.sqrt(x.size) for x in (plain, seeds)))
    return Outcome(
      mean=float(seeds.mean()),
      deviation=_deviation(seeds),
      lost=float(lost),
      noise=0.0 if kind == 'none' else noise,
      relative_loss=float(lost / plain.mean()),
    )

  return {kind: outcome(kind) for kind in finals}


def _deviation(values: np.ndarray) -> float:
  return float(values.std(ddof=1)) if values.size > 1 else math.nan
