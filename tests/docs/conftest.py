"""Commands run in this process, as in tests/commands."""

from tests.commands.conftest import restored_logging

__all__ = ['restored_logging']
