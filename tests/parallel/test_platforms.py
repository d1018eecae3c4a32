"""JAX_PLATFORMS with a platform that this machine does not have."""

import jax
import pytest

from mixer_jax import checkpoints
from mixer_jax.errors import UserError
from mixer_jax.parallel import platforms
from mixer_jax.runs import pod

UNKNOWN = RuntimeError(
  "Unable to initialize backend 'nope': it is not known. (set JAX_PLATFORMS='' to choose)"
)


@pytest.mark.parametrize(
  ('error', 'message'),
  [
    (UNKNOWN, r'JAX_PLATFORMS=nope: .* platform \(Unable .* not known\.\): unset it, or set cpu'),
    (AssertionError(), 'JAX_PLATFORMS=nope: this machine has no such platform: unset it'),
  ],
)
def test_a_platform_that_is_not_there_is_named(error, message, monkeypatch, trained):
  def devices():
    raise error

  monkeypatch.setattr(jax, 'devices', devices)
  before = getattr(jax.config, 'jax_platforms')  # noqa: B009
  jax.config.update('jax_platforms', 'nope')
  try:
    for use in (platforms.check, lambda: pod.join('x', {}), lambda: checkpoints.load(trained)):
      with pytest.raises(UserError, match=message):
        use()
  finally:
    jax.config.update('jax_platforms', before)
