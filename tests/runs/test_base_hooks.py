"""Row, progress line and warning that the hooks of a loop write for a logged step."""

from typing import Any

from mixer_jax.runlog.metrics import MetricsFile, read_metrics
from mixer_jax.runlog.progress import Progress
from mixer_jax.runs.base_hooks import BaseHooks
from tests.runlog.test_tensorboard import scalars


class Hooks(BaseHooks):
  def evaluate(self, step, state):
    raise AssertionError

  def save(self, step, state):
    raise AssertionError


def test_share_of_waiting_is_written_where_it_is_known(tmp_path):
  shares = iter([None, 0.25, 0.5])
  progress = Progress(
    MetricsFile(tmp_path), total_steps=5, batch_size=8, log_every=2, started=0.0,
    input_wait=shares.__next__, shown=False,
  )  # fmt: skip
  unused: Any = None
  hooks = Hooks(
    unused, progress, unused, log_every=2, tensorboard=str(tmp_path / 'events'), startup=None
  )
  for step in range(1, 6):
    hooks.step(step, {'loss': 1.0, 'accuracy': 0.5})
  hooks.close()
  metrics = {'loss': 1.0, 'accuracy': 0.5}
  assert scalars(tmp_path / 'events') == [(2, metrics), (4, {**metrics, 'input_wait': 0.25})]
  rows = [(row['step'], row['input_wait']) for row in read_metrics(tmp_path)]
  assert rows == [(2, None), (4, 0.25), (5, 0.5)]
