"""The folder of a run: which run it is, kept in `config.json` beside its states."""

import json
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from mixer_jax.errors import UserError

_CONFIG = 'config.json'

# Fields that change how a run is watched and kept, or where it runs, not what it computes.
_FREE = (
  'log_every',
  'eval_every',
  'eval_batch_size',
  'checkpoint_every',
  'keep_checkpoints',
  'tensorboard',
  'data.data_dir',
  'data.threads',
  'data.prefetch',
  'mesh.',
)


def stored_run(workdir) -> dict[str, Any] | None:
  """{'config': …, 'model': …} of the run in `workdir`; None where there is none.

  Raises:
    UserError: there is one, and it cannot be read.
  """
  path = epath.Path(workdir) / _CONFIG
  if not path.exists():
    return None
  try:
    run = json.loads(path.read_text())
    return {'config': run['config'], 'model': run['model']}
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(f'{path} is damaged: {error}') from error


def check_same_run(workdir, config: ConfigDict, stored: dict[str, Any]) -> None:
  """Raises `UserError` if the run in `workdir` computes something else than `config` says."""
  new, old = _flat(config.to_dict()), _flat(stored['config'])
  names = sorted(new.keys() | old.keys())
  other = [n for n in names if new.get(n) != old.get(n) and not n.startswith(_FREE)]
  if other:
    name = other[0]
    more = f' and {len(other) - 1} more differ' if len(other) > 1 else ''
    raise UserError(
      f'{workdir} holds another run: its config.{name} is {old.get(name)!r}, not '
      f'{new.get(name)!r}{more}; take another --workdir, or its settings'
    )


def write_run(workdir, config: ConfigDict, model: dict[str, Any]) -> None:
  """Makes `workdir` this run's. Whole or not at all."""
  folder = epath.Path(workdir)
  folder.mkdir(parents=True, exist_ok=True)
  aside = folder / f'{_CONFIG}.tmp'
  aside.write_text(json.dumps({'config': config.to_dict(), 'model': model}, indent=2) + '\n')
  aside.replace(folder / _CONFIG)


def _flat(fields: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  flat = {}
  for name, value in fields.items():
    flat |= _flat(value, f'{prefix}{name}.') if isinstance(value, dict) else {prefix + name: value}
  return flat
