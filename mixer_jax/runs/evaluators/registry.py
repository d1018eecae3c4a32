"""The kinds of evaluations, and those that a run has.

A kind is a module with `prepare(row: Row, context: Context) -> Evaluator`; it is imported when a
run needs it.
"""

import importlib
import re

from mixer_jax.errors import UserError
from mixer_jax.runs.evaluators.evaluator import Context, Evaluator, Row
from mixer_jax.runs.run_config import RunConfig

KINDS = {
  'classification': 'mixer_jax.runs.evaluators.classification',
  'few_shot': 'mixer_jax.runs.evaluators.few_shot',
  'probe': 'mixer_jax.runs.evaluators.probe',
}
"""Kind -> module."""

_TAKEN = ('eval', 'fewshot', 'test', 'start', 'startup', 'save', 'end')
"""Events of a run in `metrics.jsonl`."""


def rows_of(config: RunConfig) -> list[Row]:
  """Return the evaluations of a run in the order in which they are made.

  The first is classification of the evaluation split, then few-shot accuracy as `config.fewshot`
  asks for it, then those of `config.evals`.

  Raises:
    UserError: a row of `config.evals` has no known kind, or a name that is taken.
  """
  rows = [Row('eval', 'classification', 1, {}, event='eval')]
  if config.fewshot.every:
    fields = dict(config.to_fields()['fewshot'])
    rows.append(Row('fewshot', 'few_shot', fields.pop('every'), fields, event='fewshot'))
  for name, fields in config.evals.items():
    own = dict(fields)
    kind, every = own.pop('kind', None), own.pop('every', 1)
    if type(kind) is not str or kind not in KINDS:
      raise UserError(f'config.evals.{name}.kind must be one of {", ".join(KINDS)}, not {kind!r}')
    if not re.fullmatch(r'[\w-]+', str(name)) or name in _TAKEN:
      raise UserError(
        f'config.evals has a row called {name!r}: take letters, digits, _ and -, and none of '
        f'{", ".join(_TAKEN)}'
      )
    rows.append(Row(name, kind, every, own, event=kind, is_extra=True))
  return rows


def prepare_all(config: RunConfig, context: Context) -> tuple[Evaluator, ...]:
  """Return the evaluations of a run, their data opened.

  Raises:
    UserError: a field is wrong, or there is no such data.
  """
  return tuple(
    importlib.import_module(KINDS[row.kind]).prepare(row, context) for row in rows_of(config)
  )
