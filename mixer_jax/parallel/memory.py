"""Programs that need more memory than there is."""

import contextlib
from collections.abc import Callable, Iterator

import jax

from mixer_jax.errors import UserError, one_line


@contextlib.contextmanager
def remedies_named(work: str, remedies: Callable[[], list[str]]) -> Iterator[None]:
  """Turn an error of memory, on the devices or the host, into one line that says what to change.

  Args:
    work: what needs the memory: 'a training step'.
    remedies: returns the changes, the first one first.

  Raises:
    UserError: there was too little memory.
  """
  try:
    yield
  except (jax.errors.JaxRuntimeError, MemoryError) as error:
    text = one_line(error)
    if isinstance(error, jax.errors.JaxRuntimeError) and 'RESOURCE_EXHAUSTED' not in text:
      raise
    reason = text.removeprefix('RESOURCE_EXHAUSTED: ')
    raise UserError(
      f'{work} needs more memory than there is ({reason}): try {" or ".join(remedies())}'
    ) from error
