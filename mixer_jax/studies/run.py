"""Studies by name."""

import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any

from mixer_jax.errors import UserError
from mixer_jax.runs.config_file import load_config
from mixer_jax.runs.fields import list_text
from mixer_jax.studies import cka, permutation, pruning, scaling, sweep, transfer
from mixer_jax.studies.study import StudyReport

STUDIES: Mapping[str, Callable[..., StudyReport | None]] = {
  'cka-study': cka.run,
  'permute': permutation.run,
  'prune': pruning.run,
  'scaling': scaling.run,
  'sweep': sweep.run,
  'transfer': transfer.run,
}
"""Name of the command -> the study."""


def run_study(
  name: str,
  config: str | os.PathLike | Mapping[str, Any],
  workdir: str,
  *,
  overrides: Mapping[str, Any] | None = None,
  **arguments: Any,
) -> StudyReport | None:
  """Runs a study, or resumes it, as the command of the same name does.

  Args:
    name: one of `STUDIES`.
    config: a config file, FILE[:ARG], such as 'configs/permutation.py:digits'; or its fields, in
      which an experiment may also be a `RunConfig`.
    workdir: folder of all runs and results, local or in a bucket.
    overrides: dotted name -> value of fields that differ from the config file.
    arguments: of the study's `run`: `checkpoint` of 'prune'; `suite` or `tasks`, and
      `checkpoint`, of 'transfer'; `over` and `seeds` of 'sweep', whose config is an experiment.

  Returns:
    The report; None in processes other than process 0.

  Raises:
    UserError: there is no such study, or its config is wrong.
  """
  if name not in STUDIES:
    raise UserError(f'no study is called {name!r}: there are {", ".join(STUDIES)}')
  study = STUDIES[name]
  try:
    inspect.signature(study).bind(config, workdir, **arguments)
  except TypeError as error:
    raise UserError(f'the study {name}: {error}') from None
  if isinstance(config, str | os.PathLike):
    config = os.fspath(config)
    flags = [f'--config.{field}={list_text(value)}' for field, value in (overrides or {}).items()]
    config = load_config(config, flags)
  elif overrides:
    raise UserError('overrides are of a config file: set the fields themselves')
  elif not isinstance(config, Mapping):
    raise UserError(f'the config of a study is a file or its fields, not {config!r:.80}')
  return study(config, workdir, **arguments)
