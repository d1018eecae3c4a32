"""A command on the processes of a pod, where there is one."""

import logging

import jax

from mixer_jax.parallel import processes
from mixer_jax.parallel.processes import ProcessesConfig
from mixer_jax.runlog import console, terminal
from mixer_jax.runs import compilation_cache


def join(
  command: str,
  told: dict[str, str],
  limits: ProcessesConfig,
  *,
  preemptible: bool = False,
) -> None:
  """Joins the other processes, where there are any, and sees that they do the same.

  Behind it only process 0 tells how things go; faults are told by all.

  Args:
    told: what all must have been started with, by name.
  """
  compilation_cache.keep()
  processes.start(limits, preemptible=preemptible)
  if processes.is_alone():
    return
  console.silence_libraries()
  if not is_first():
    terminal.silence()
    logging.getLogger('mixer_jax').setLevel(logging.WARNING)
  processes.check_same({'the command': command, **told})


def is_first() -> bool:
  """Whether this is the process that prints results and writes files."""
  return jax.process_index() == 0
