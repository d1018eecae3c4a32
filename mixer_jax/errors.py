"""Exceptions that a caller can act on, and their messages."""

RESUMES = 'the same command again resumes from the last saved state, or begins if there is none'
"""End of a message about a run that stopped before it could save its state."""


class UserError(ValueError):
  """Bad input: one line that names the problem and the way out.

  The command line prints it without a traceback and exits with code 2; in Python it is a
  `ValueError`.
  """


class NotFiniteError(UserError):
  """A run diverged: a loss, gradient or state is not finite. All its processes agree on it."""


class StorageError(UserError):
  """Files cannot be read or written now: exit code 74. A later try may work; nothing is lost."""


class ApartError(UserError):
  """The processes of a pod could not connect: exit code 69. Another try may work."""


class PreemptedError(Exception):
  """The run was asked to stop (SIGTERM and others), and its state is saved: exit code 75."""


class InterruptedRunError(PreemptedError, KeyboardInterrupt):
  """The run was interrupted (Ctrl-C), and its state is saved: exit code 130."""


class DoesNotFitError(Exception):
  """The planned program needs more memory than the devices have: exit code 3."""


def one_line(error: BaseException, limit: int = 200) -> str:
  """Return an exception's message on one line, cut to `limit` characters; its type if empty."""
  return ' '.join(str(error).split())[:limit] or type(error).__name__


def printable(text: str) -> str:
  """Return a text from a file for a terminal or page: control characters are escaped.

  Bytes that are not UTF-8 (surrogates, as `os.fsdecode` makes them) are shown as `\\xe9`.
  """
  if text.isprintable():  # nearly all are, and each image of a training run has a name
    return text
  return ''.join(c if c.isprintable() else _escaped(c) for c in text)


def printable_lines(text: str) -> str:
  """Return `printable` text whose lines stay lines."""
  return '\n'.join(map(printable, text.split('\n')))


def _escaped(character: str) -> str:
  number = ord(character)
  return f'\\x{number - 0xDC00:02x}' if 0xDC80 <= number <= 0xDCFF else repr(character)[1:-1]
