"""A kind of evaluation that a test registers: the norm of the head."""

import numpy as np

from mixer_jax.runs.evaluators.evaluator import Context, Evaluator, Row


def prepare(row: Row, context: Context) -> Evaluator:
  return _Norm(row, 'no images')


class _Norm(Evaluator):
  def metrics(self):
    return ['norm']

  def __call__(self, step, params):
    return {'norm': float(np.linalg.norm(np.asarray(params['head']['kernel'])))}
