"""Console set-up of a command: all logging and progress go through one `Terminal`."""

import logging
import os
import sys
import warnings

from mixer_jax.runlog import streams
from mixer_jax.runlog.terminal import Terminal, install


def setup_console() -> Terminal:
  """Install the terminal of this command; all loggers write to it afterwards."""
  terminal = Terminal()
  install(terminal)
  terminal.setFormatter(logging.Formatter('%(message)s'))
  root = logging.getLogger()
  root.handlers = [terminal]
  root.setLevel(logging.WARNING)
  logging.getLogger('mixer_jax').setLevel(logging.INFO)
  # Orbax and TFDS log at length and with tracebacks here; their errors also reach us as
  # exceptions.
  logging.getLogger('absl').handlers = []
  # Matplotlib also logs that it cannot keep its list of fonts where there is no home directory.
  for name in ('absl', 'asyncio', 'matplotlib'):
    logging.getLogger(name).setLevel(logging.CRITICAL)
  # If several reads fail at once, Orbax awaits only one of them.
  warnings.filterwarnings('ignore', message='coroutine .* was never awaited')
  return terminal


def silence_libraries() -> None:
  """Discard what libraries write to stdout below Python; ours still arrives.

  The CPU collectives (Gloo) report their connections there, among our results.
  """
  if sys.stdout is None:
    return
  sys.stdout.flush()
  try:
    own = os.dup(1)
  except OSError:  # stdout is closed
    return
  with open(os.devnull, 'wb') as null:
    os.dup2(null.fileno(), 1)
  streams.move_stdout(own)
