"""The order of events in the loop, with a step that is pure bookkeeping."""

import math
import types
from typing import Any

import numpy as np
import pytest

from mixer_jax.errors import PreemptedError, UserError
from mixer_jax.training.loop import Verdict, train


class Recorder:
  """Hooks and step in one; writes down what happens in which order."""

  def __init__(self, bad_step: int = 0, bad_name: str = 'loss', told_at: int = 0, verdicts=None):
    self.events: list[tuple] = []
    self.told_at = told_at
    self.verdicts: dict[int, Verdict] = verdicts or {}
    self.bad_step, self.bad_name = bad_step, bad_name

  def train_step(self, state, batch):
    step = state.step + 1
    self.events.append(('dispatch', step, batch))
    metrics = {'loss': np.float32(step), 'grad_norm': np.float32(1)}
    if step == self.bad_step:
      metrics[self.bad_name] = np.float32(math.nan)
    return types.SimpleNamespace(step=step), metrics

  def step(self, step, metrics):
    assert metrics['loss'] == step
    self.events.append(('step', step))

  def evaluate(self, step, state):
    assert state.step == step
    self.events.append(('evaluate', step))
    return self.verdicts.get(step, Verdict(save=False, stop=False))

  def should_stop(self, step):
    return step == self.told_at

  def stopped(self, step):
    return PreemptedError(f'preempted at step {step}')

  def save(self, step, state):
    assert state.step == step
    self.events.append(('save', step))


def run(recorder, first=0, total=4, eval_every=0, save_every=0, evaluated=None):
  state: Any = types.SimpleNamespace(step=first)
  batches: Any = iter(range(100))
  return train(
    state,
    recorder.train_step,
    batches,
    recorder,
    first_step=first,
    evaluated_step=first if evaluated is None else evaluated,
    total_steps=total,
    eval_every=eval_every,
    save_every=save_every,
  )


def test_a_step_is_dispatched_before_the_last_one_is_read():
  recorder = Recorder()
  assert run(recorder).step == 4
  kinds = [event[:2] for event in recorder.events]
  assert kinds[:4] == [('dispatch', 1), ('dispatch', 2), ('step', 1), ('dispatch', 3)]
  assert kinds[-4:] == [('step', 4), ('save', 4), ('evaluate', 4), ('save', 4)]
  assert [event[2] for event in recorder.events if event[0] == 'dispatch'] == [0, 1, 2, 3]


def test_evaluation_and_saving_come_when_due_behind_their_own_step():
  recorder = Recorder()
  run(recorder, first=1, total=5, eval_every=2, save_every=3)
  rest = [event for event in recorder.events if event[0] != 'dispatch']
  assert rest == [
    ('step', 2), ('evaluate', 2), ('step', 3), ('save', 3), ('step', 4), ('evaluate', 4),
    ('step', 5), ('save', 5), ('evaluate', 5), ('save', 5),
  ]  # fmt: skip


@pytest.mark.parametrize('name', ['loss', 'grad_norm'])
def test_a_step_that_is_not_finite_stops_the_run_and_is_never_saved(name):
  recorder = Recorder(bad_step=3, bad_name=name)
  with pytest.raises(UserError, match=f'step 3: {name} is nan'):
    run(recorder, total=10, save_every=1)
  assert ('save', 2) in recorder.events
  assert ('save', 3) not in recorder.events
  recorder = Recorder(bad_step=10, bad_name=name)
  with pytest.raises(UserError, match='step 10'):
    run(recorder, total=10)


def test_nothing_is_left_to_do():
  recorder = Recorder()
  assert run(recorder, first=4, total=4).step == 4
  assert recorder.events == []


def test_a_preempted_run_saves_that_step_and_exits():
  recorder = Recorder(told_at=2)
  with pytest.raises(PreemptedError, match='step 2'):
    run(recorder, eval_every=2)
  assert [event[:2] for event in recorder.events] == [
    ('dispatch', 1),
    ('dispatch', 2),
    ('step', 1),
    ('step', 2),
    ('save', 2),  # and no evaluation: there is no time
  ]


def test_a_run_that_is_told_at_its_last_step_just_ends():
  recorder = Recorder(told_at=4)
  run(recorder)
  assert recorder.events[-1][0] != 'dispatch'


@pytest.mark.parametrize('save_every', [0, 2])
def test_a_run_that_is_told_in_an_evaluation_has_saved_that_step(save_every):
  recorder = Recorder()

  def evaluate(step, state):
    recorder.events.append(('evaluate', step))
    raise PreemptedError('preempted during an evaluation')

  recorder.evaluate = evaluate
  with pytest.raises(PreemptedError):
    run(recorder, eval_every=2, save_every=save_every)
  order = [('save', 2), ('evaluate', 2)]
  assert behind_dispatch(recorder) == (order if save_every else order[::-1])


def behind_dispatch(recorder) -> list[tuple]:
  return [event for event in recorder.events if event[0] not in ('dispatch', 'step')]


def test_a_best_state_is_saved_where_no_save_is_due_and_before_the_evaluation_where_one_is():
  recorder = Recorder(verdicts={step: Verdict(save=True, stop=False) for step in (1, 2)})
  run(recorder, total=3, eval_every=1, save_every=2)
  assert behind_dispatch(recorder) == [
    ('evaluate', 1), ('save', 1),
    ('save', 2), ('evaluate', 2), ('save', 2), ('save', 3), ('evaluate', 3), ('save', 3),
  ]  # fmt: skip


def test_a_verdict_ends_the_run_behind_a_save():
  recorder = Recorder(verdicts={2: Verdict(save=False, stop=True)})
  assert run(recorder, total=9, eval_every=2).step == 2
  assert behind_dispatch(recorder) == [('evaluate', 2), ('save', 2)]
  assert ('step', 2) in recorder.events
  assert ('dispatch', 3, 2) not in recorder.events


def test_an_evaluation_that_there_was_no_time_for_comes_first():
  told = Recorder(told_at=2)
  with pytest.raises(PreemptedError):
    run(told, total=6, eval_every=2)
  recorder = Recorder()
  run(recorder, first=2, evaluated=0, total=4, eval_every=2)
  assert recorder.events[0] == ('evaluate', 2)
  assert behind_dispatch(recorder) == [
    ('evaluate', 2), ('save', 2), ('save', 4), ('evaluate', 4), ('save', 4),
  ]  # fmt: skip
  recorder = Recorder()
  run(recorder, first=3, evaluated=2, total=4, eval_every=2)  # none was due at step 3
  assert recorder.events[0] == ('dispatch', 4, 0)
  recorder = Recorder(verdicts={2: Verdict(save=False, stop=True)})
  assert run(recorder, first=2, evaluated=0, eval_every=2).step == 2
  assert recorder.events == [('evaluate', 2), ('save', 2)]
