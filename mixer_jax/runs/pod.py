"""A command that runs on the processes of a pod, or alone."""

import logging
from collections.abc import Mapping
from typing import Any

from mixer_jax.parallel import platforms, processes
from mixer_jax.parallel.processes import ProcessesConfig
from mixer_jax.runlog import console, terminal
from mixer_jax.runs import compilation_cache, profiling
from mixer_jax.runs.fields import flatten


def join(
  command: str,
  settings: Mapping[str, str],
  limits: ProcessesConfig | None = None,
  *,
  preemptible: bool = False,
) -> None:
  """Joins the other processes, if there are any, and checks that all were started alike.

  Afterwards only process 0 logs progress; errors are logged by every process.

  Args:
    settings: what all processes must have been started with, by name; see `settings_of`.
    limits: by default those of `ProcessesConfig`.
    preemptible: a SIGTERM saves the state before the processes exit.
  """
  compilation_cache.enable()
  processes.start(limits or ProcessesConfig(), preemptible=preemptible)
  platforms.check()
  profiling.listen()
  if processes.is_alone():
    return
  console.silence_libraries()
  if not processes.is_main():
    terminal.silence()
    logging.getLogger('mixer_jax').setLevel(logging.WARNING)
  processes.check_same({'the command': command, **settings})


def settings_of(
  flags: Mapping[str, Any], config: Mapping[str, Any] | None = None
) -> dict[str, str]:
  """Return flags and the fields of a config as `join` compares them.

  Args:
    flags: name -> value. The file that `config` came from may be another on each host.
    config: plain fields; None: the command has no config.
  """
  settings = {f'--{name}': repr(value) for name, value in flags.items() if name != 'config'}
  fields = flatten(config or {})
  return settings | {f'config.{name}': repr(value) for name, value in fields.items()}


def leave() -> bool:
  """Leave the other processes; return True in the one that prints results and writes files."""
  is_main = processes.is_main()
  processes.leave_together()
  return is_main
