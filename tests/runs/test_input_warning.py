"""The warning of a run whose devices wait for their input."""

import logging
import types
from typing import Any

import pytest

from mixer_jax.runs.input_warning import InputWarning, message


def data(**fields) -> Any:
  """Return the fields of `config.data` that the message depends on."""
  return types.SimpleNamespace(**{'randaugment_layers': 0, 'decode_scale': 'auto', **fields})


def row(share: float | None, step: int = 50, rate: float | None = 1200.0):
  return {'step': step, 'input_wait': share, 'images_per_second': rate}


def test_it_comes_above_a_tenth_and_then_once_an_hour(caplog):
  now = 0.0
  warning = InputWarning(data(), lambda: now)
  for step, share in enumerate((None, 0.0, 0.1, 0.101, 0.5, 0.9)):
    warning.check(row(share, step))
  for now in (3599.0, 3600.0, 3601.0, 7199.0, 7300.0):
    warning.check(row(0.5, int(now)))
  warning.check(row(0.05, 9999))
  steps = [record.getMessage().split(':')[0] for record in caplog.records]
  assert steps == ['step 3', 'step 3600', 'step 7300']
  assert {record.levelno for record in caplog.records} == {logging.WARNING}
  InputWarning(data(), lambda: now).check(row(0.5))  # another start
  assert len(caplog.records) == 4


def test_it_says_what_is_known_and_what_helps():
  text = message(50, 0.25, 1200.0, data())
  assert text == (
    'step 50: the devices waited for input 25 % of the time: it delivers 1,200 images/s, and they '
    'can take 1,600; what helps: more --config.data.workers or --config.data.threads, with the '
    'same results; mixer-jax bench --what=input measures the input'
  )
  assert 'images/s' not in message(50, 0.25, None, data())
  assert 'images/s' not in message(50, 1.0, 1200.0, data())


@pytest.mark.parametrize(
  ('fields', 'named'),
  [
    ({'randaugment_layers': 2}, 'fewer --config.data.randaugment_layers'),
    ({'decode_scale': 'none'}, '--config.data.decode_scale=auto (large photographs)'),
  ],
)
def test_it_names_the_fields_that_can_help_a_new_run(fields, named):
  text = message(50, 0.25, None, data(**fields))
  assert f'; for a new run also {named}; mixer-jax bench' in text
