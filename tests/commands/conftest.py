"""Commands run in this process: their console must not outlive the test."""

import pytest

from tests.helpers import console


@pytest.fixture(autouse=True)
def restored_logging():
  """Puts the root logger back as it was."""
  with console.restored_logging():
    yield
