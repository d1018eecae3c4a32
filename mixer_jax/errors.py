"""Exceptions that a caller can act on, and their messages."""


class UserError(ValueError):
  """Bad input: one line that names the problem and the way out.

  The command line prints it without a traceback and exits with code 2; in Python it is a
  `ValueError`.
  """


class NotFiniteError(UserError):
  """A run diverged: a loss, gradient or state is not finite. All its processes agree on it."""


class StorageError(UserError):
  """A state could not be written: exit code 74. Saved states are intact; a later try may work."""


class ApartError(UserError):
  """The processes of a pod could not connect: exit code 69. Another try may work."""


class PreemptedError(Exception):
  """The run was asked to stop (SIGTERM) and has saved its state: exit code 75."""


class DoesNotFitError(Exception):
  """The planned program needs more memory than the devices have: exit code 3."""


def one_line(error: BaseException, limit: int = 200) -> str:
  """Return an exception's message on one line, cut to `limit` characters; its type if empty."""
  return ' '.join(str(error).split())[:limit] or type(error).__name__
