"""A small run for the tests of this folder, and a console that does not outlive a test."""

import logging

import pytest

from mixer_jax.runlog.terminal import install
from tests.helpers import train_runs


@pytest.fixture(autouse=True)
def restored_logging():
  root, level = logging.getLogger(), logging.getLogger('mixer_jax').level
  handlers = root.handlers
  yield
  root.handlers = handlers
  logging.getLogger('mixer_jax').setLevel(level)
  install(None)


@pytest.fixture(scope='session')
def trained(tmp_path_factory, digits_dir):
  workdir = tmp_path_factory.mktemp('trained') / 'run'
  assert train_runs.train(workdir, digits_dir, '--config.model.num_blocks=2') == 0
  return workdir
