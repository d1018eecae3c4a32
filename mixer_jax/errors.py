"""The one exception that means: the caller can mend this."""


class UserError(ValueError):
  """Bad input, told in one line that names the thing and the way out.

  The command line prints it without a traceback and leaves with exit code 2;
  in Python it is a `ValueError`.
  """


class NotFiniteError(UserError):
  """A run diverged: a loss, gradient or state is not finite. All its processes see it alike."""


class StorageError(UserError):
  """A state could not be written: exit code 74. Saved states are whole; later it may work."""


class ApartError(UserError):
  """The processes of a pod did not come together: exit code 69. Another attempt may mend it."""


class PreemptedError(Exception):
  """The run was told to leave (SIGTERM) and has saved its state: exit code 75."""


class DoesNotFitError(Exception):
  """What was planned is larger than the devices: exit code 3."""


def one_line(error: BaseException, limit: int = 200) -> str:
  """The message of an exception on one line, cut to `limit` characters; its type if it has none."""
  return ' '.join(str(error).split())[:limit] or type(error).__name__
