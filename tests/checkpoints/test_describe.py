"""The description of a checkpoint."""

from mixer_jax.checkpoints import describe, read
from tests.helpers import reference


def test_sizes_and_what_is_assumed_of_a_weights_file():
  about = describe.describe(read(reference.DATA / 'mixer_tiny.npz'))
  config, _, _ = reference.golden()
  assert about['num_blocks'] == config.num_blocks
  assert about['num_tokens'] == config.num_tokens
  assert about['assumed'] == ['gelu', 'input_range']
  assert about['largest']['MixerBlock_0/channel_mixing/Dense_0/kernel'] == [24, 48]
  text = describe.as_text(about)
  assert 'gelu              tanh (assumed: not in a weights file)' in text
