"""Slices of a split of known size, as TFDS defines them."""

import re

from mixer_jax.errors import UserError


def ranges(split: str, size: int, name: str) -> list[tuple[int, int]]:
  """Return the (start, stop) of each slice in `split`, for splits of `size` examples.

  Raises:
    UserError: the slices are invalid; `name` is used in the message.
  """
  from tensorflow_datasets.core import splits  # takes a second, without TensorFlow

  names = re.findall(r'(?:^|\+)\s*(\w+)', split)
  known = {name: splits.SplitInfo(name, [size], 0) for name in names}
  try:
    parts = splits.AbstractSplit.from_spec(split).to_absolute(known)
  except (KeyError, ValueError, AssertionError, NotImplementedError) as error:
    raise UserError(
      f"{name} has no split {split!r}: slices are written as in 'train[:99%]'"
    ) from error
  return [(part.from_ or 0, size if part.to is None else part.to) for part in parts]
