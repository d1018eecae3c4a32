"""The permutation experiment (section 3.4): effect of shuffled pixels on a model.

Token mixing knows no neighbourhood, and the stem no places within a patch. So shuffling the
patches, and the pixels of all patches alike, costs a Mixer nothing: `matching` constructs the Mixer
that proves it. `outcomes` summarises runs on shuffled images.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from mixer_jax.models import MixerConfig


def matching(config: MixerConfig, params: dict, patches: np.ndarray, within: np.ndarray) -> dict:
  """Return params that compute from permuted images the logits `params` compute from the images.

  The rows of the stem follow the pixels, the token axes of the token MLPs the patches; nothing
  else changes. Changed arrays are on the host (NumPy).

  Args:
    config: the Mixer; its patches are those of the permutation.
    params: its weights.
    patches: (S,), the source patch of each position; see `data.permute.of_patches`.
    within: (P²,), the source pixel of each position in a patch.
  """
  kernel = np.asarray(params['stem']['kernel'])
  rows = kernel.reshape(config.patch_size**2, *kernel.shape[2:])[within]
  matched = {**params, 'stem': {**params['stem'], 'kernel': rows.reshape(kernel.shape)}}
  for i in range(config.num_blocks):
    block = params[f'MixerBlock_{i}']
    into, out = block['token_mixing']['Dense_0'], block['token_mixing']['Dense_1']
    mixing = {
      'Dense_0': {**into, 'kernel': np.asarray(into['kernel'])[patches]},
      'Dense_1': {
        'kernel': np.asarray(out['kernel'])[:, patches],
        'bias': np.asarray(out['bias'])[patches],
      },
    }
    matched[f'MixerBlock_{i}'] = {**block, 'token_mixing': mixing}
  return matched


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
