"""Set-up of the console of a command: all logging and progress through one `Terminal`."""

import logging
import os
import sys
import warnings

from mixer_jax.runlog.terminal import Terminal, install


def setup_console() -> Terminal:
  """Installs the terminal of this command; all loggers write to it from now on."""
  terminal = Terminal()
  install(terminal)
  terminal.setFormatter(logging.Formatter('%(message)s'))
  root = logging.getLogger()
  root.handlers = [terminal]
  root.setLevel(logging.WARNING)
  logging.getLogger('mixer_jax').setLevel(logging.INFO)
  # Orbax and TFDS speak through these at length and with tracebacks; what matters of it
  # comes to us as exceptions.
  logging.getLogger('absl').handlers = []
  for name in ('absl', 'asyncio'):
    logging.getLogger(name).setLevel(logging.CRITICAL)
  # Of several reads that fail at once Orbax awaits one.
  warnings.filterwarnings('ignore', message='coroutine .* was never awaited')
  return terminal


def silence_libraries() -> None:
  """Our stdout stays; what others write there past Python goes nowhere.

  The CPU collectives (Gloo) tell of their connections there, among our results.
  """
  sys.stdout.flush()
  try:
    own = os.dup(1)
  except OSError:  # there is no stdout
    return
  with open(os.devnull, 'wb') as nowhere:
    os.dup2(nowhere.fileno(), 1)
  sys.stdout = open(own, 'w', encoding=sys.stdout.encoding)  # noqa: SIM115
