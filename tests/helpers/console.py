"""Logging as it was before a command ran in this process."""

import contextlib
import logging
from collections.abc import Iterator

from mixer_jax.runlog.terminal import install


@contextlib.contextmanager
def restored_logging() -> Iterator[None]:
  """Restore the root logger, the levels of the loggers that a command sets, and no terminal."""
  root = logging.getLogger()
  handlers, level = root.handlers, root.level
  names = ('absl', 'asyncio', 'matplotlib', 'mixer_jax')
  levels = {name: logging.getLogger(name).level for name in names}
  try:
    yield
  finally:
    root.handlers, root.level = handlers, level
    install(None)
    for name, value in levels.items():
      logging.getLogger(name).setLevel(value)
