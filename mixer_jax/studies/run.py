"""Studies by name."""

from collections.abc import Callable, Mapping
from typing import Any

from mixer_jax.errors import UserError
from mixer_jax.studies import cka, permutation, pruning, scaling, transfer
from mixer_jax.studies.study import StudyReport

STUDIES: Mapping[str, Callable[..., StudyReport | None]] = {
  'cka-study': cka.run,
  'permute': permutation.run,
  'prune': pruning.run,
  'scaling': scaling.run,
  'transfer': transfer.run,
}
"""Name of the command -> the study."""


def run_study(
  name: str, config: Mapping[str, Any], workdir: str, **arguments: Any
) -> StudyReport | None:
  """Runs a study, or resumes it, as the command of the same name does.

  Args:
    name: one of `STUDIES`.
    config: the fields of its config file, as `load_config` returns them.
    workdir: folder of all runs and results, local or in a bucket.
    arguments: of the study's `run`: `checkpoint` for 'prune'; for 'transfer', `suite` or `tasks`
      and `checkpoint`.

  Returns:
    The report; None in processes other than process 0.

  Raises:
    UserError: there is no such study, or its config or arguments are wrong.
  """
  if name not in STUDIES:
    raise UserError(f'no study is called {name!r}: there are {", ".join(STUDIES)}')
  return STUDIES[name](config, workdir, **arguments)
