"""Public functions that only combine functions of lower rooms."""

from collections.abc import Mapping
from typing import Any

from mixer_jax.runs import config_file
from mixer_jax.runs.run_config import RunConfig


def load_config(spec: str, overrides: Mapping[str, Any] | None = None) -> RunConfig:
  """Read an experiment's config file, as `--config` does.

  Args:
    spec: `FILE` or `FILE:ARG`, such as 'configs/digits.py'.
    overrides: dotted field name -> value, such as {'optimizer.learning_rate': 1e-3}. As with
      `--config.field=value`, fields that are derived from another field follow its new value.

  Raises:
    UserError: no such file, an error in it, an unknown field, or a value of the wrong type.
  """
  flags = [f'--config.{name}={_as_text(value)}' for name, value in (overrides or {}).items()]
  return RunConfig.from_fields(config_file.load_config(spec, flags))


def _as_text(value: Any) -> str:
  """Return a field's value as it is written on the command line."""
  return ','.join(map(str, value)) if isinstance(value, tuple | list) else str(value)
