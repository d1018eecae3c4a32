"""Training from a thread that is not the main one, which cannot have signals."""

import concurrent.futures
import signal

import pytest

import mixer_jax
from tests.helpers.train_runs import SMALL_FIELDS


@pytest.mark.long
def test_a_run_is_trained_in_a_thread(tmp_path, digits_dir):
  handler = signal.getsignal(signal.SIGINT)
  config = mixer_jax.load_config(
    'configs/digits.py', {**SMALL_FIELDS, 'data.data_dir': str(digits_dir)}
  )
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    assert pool.submit(mixer_jax.train, config, tmp_path).result().step == 6
  assert signal.getsignal(signal.SIGINT) is handler
