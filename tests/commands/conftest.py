"""Commands run in this process: their screen must not outlive the test."""

import logging

import pytest


@pytest.fixture(autouse=True)
def restored_logging():
  """Puts the root logger back as it was."""
  root, levels = logging.getLogger(), {}
  handlers, level = root.handlers, root.level
  for name in ('absl', 'asyncio', 'mixer_jax'):
    levels[name] = logging.getLogger(name).level
  yield
  root.handlers, root.level = handlers, level
  for name, value in levels.items():
    logging.getLogger(name).setLevel(value)
