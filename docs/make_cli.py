"""Write docs/cli.md from the `--help` of every command: `python -m docs.make_cli` (`make docs`)."""

import contextlib
import io
import os
import pathlib

from mixer_jax.__main__ import COMMANDS, main

PAGE = pathlib.Path(__file__).parent / 'cli.md'
SUBCOMMANDS = {'data': ('prepare', 'check', 'show')}

INTRODUCTION = """# Commands

Generated from `--help` by `docs/make_cli.py`; run `make docs` after a change of flags. Every
command is also `python -m mixer_jax COMMAND`. [pods.md](pods.md#exit-codes) lists the exit codes.
"""


def help_text(*argv: str) -> str:
  """Return what `mixer-jax ARGV --help` prints, 100 columns wide."""
  columns = os.environ.get('COLUMNS')
  os.environ['COLUMNS'] = '100'
  output = io.StringIO()
  try:
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
      main([*argv, '--help'])
  finally:
    del os.environ['COLUMNS']
    if columns is not None:
      os.environ['COLUMNS'] = columns
  return output.getvalue().strip()


def sections() -> dict[str, str]:
  """Return heading -> help text: the list of commands, then each command and its subcommands."""
  texts = {'mixer-jax': help_text()}
  for command in COMMANDS:
    texts[command] = help_text(command)
    for name in SUBCOMMANDS.get(command, ()):
      texts[f'{command} {name}'] = help_text(command, name)
  return texts


def page() -> str:
  """Return the text of docs/cli.md."""
  parts = [f'## {name}\n\n```text\n{text}\n```\n' for name, text in sections().items()]
  return '\n'.join([INTRODUCTION, *parts])


if __name__ == '__main__':
  PAGE.write_text(page())
