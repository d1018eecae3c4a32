"""Slices of something that has one size, as TFDS cuts them."""

import re

from mixer_jax.errors import UserError


def ranges(split: str, size: int, name: str) -> list[tuple[int, int]]:
  """What TFDS takes by the slices in `split` from splits of `size` examples: (from, to) of each.

  Raises:
    UserError: `name` cannot be sliced so.
  """
  from tensorflow_datasets.core import splits  # takes a second, without TensorFlow

  names = re.findall(r'(?:^|\+)\s*(\w+)', split)
  known = {name: splits.SplitInfo(name, [size], 0) for name in names}
  try:
    parts = splits.AbstractSplit.from_spec(split).to_absolute(known)
  except (KeyError, ValueError, AssertionError, NotImplementedError) as error:
    raise UserError(f"{name} has no split {split!r}: it is sliced as in 'train[:99%]'") from error
  return [(part.from_ or 0, size if part.to is None else part.to) for part in parts]
