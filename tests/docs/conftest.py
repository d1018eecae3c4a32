"""Commands run in this process, as in tests/commands, and share what they compile."""

from tests.commands.conftest import compiled, restored_logging

__all__ = ['compiled', 'restored_logging']
