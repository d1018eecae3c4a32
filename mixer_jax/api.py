"""Public functions that only combine functions of lower rooms."""

import os
from collections.abc import Mapping
from typing import Any

from mixer_jax.errors import UserError
from mixer_jax.runs import config_file
from mixer_jax.runs.run_config import RunConfig


def load_config(spec: str | os.PathLike, overrides: Mapping[str, Any] | None = None) -> RunConfig:
  """Read an experiment's config file, as `--config` does.

  Args:
    spec: `FILE` or `FILE:ARG`, such as 'configs/digits.py'.
    overrides: dotted field name -> value, such as {'optimizer.learning_rate': 1e-3}. As with
      `--config.field=value`, fields that are derived from another field follow its new value.

  Raises:
    UserError: no such file, an error in it, an unknown field, or a value of the wrong type.
  """
  if not isinstance(spec, str | os.PathLike):
    raise UserError(f'a config is read from FILE or FILE:ARG, not {spec!r:.80}')
  if overrides is not None and not isinstance(overrides, Mapping):
    example = {'total_steps': 100}
    raise UserError(f'overrides are field -> value, as in {example}, not {overrides!r:.80}')
  flags = [f'--config.{name}={_as_text(name, value)}' for name, value in (overrides or {}).items()]
  return RunConfig.from_fields(config_file.load_config(os.fspath(spec), flags))


def _as_text(name: str, value: Any) -> str:
  """Return a field's value as it is written on the command line."""
  if str(name).startswith('config.'):
    raise UserError(f"the override {name!r} has a superfluous 'config.': leave it out")
  if value is None:
    raise UserError(f'the override of {name} is None: an empty text or list is {""!r} or ()')
  return ','.join(map(str, value)) if isinstance(value, tuple | list) else str(value)
