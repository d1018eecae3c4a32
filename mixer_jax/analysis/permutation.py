"""A Mixer that permuted pixels cost nothing (section 3.4 of the paper).

A Mixer's token mixing has no notion of neighbours, and its stem none of places in a patch. So
patches that are shuffled, with the pixels in all of them shuffled alike, cost it nothing:
`matching` returns the Mixer that proves it.
"""

import numpy as np

from mixer_jax.models import MixerConfig


def matching(config: MixerConfig, params: dict, patches: np.ndarray, within: np.ndarray) -> dict:
  """Returns params that give the same logits for permuted images as `params` for the images.

  The rows of the stem follow the pixels, the token axes of the token MLPs the patches; nothing
  else changes. Arrays that change are returned on the host (NumPy).

  Args:
    config: the Mixer; its patches are those of the permutation.
    params: its weights.
    patches: (S,), the patch that each place receives; see `data.permute.of_patches`.
    within: (P²,), the pixel that each place in a patch receives.
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
