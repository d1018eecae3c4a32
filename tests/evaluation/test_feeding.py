"""The benchmark of evaluation: its rates follow from a fake clock, its figures are not tested."""

import itertools
import types

from benchmarks import evaluation
from mixer_jax.models import MixerConfig


def test_an_evaluation_is_compared_with_its_parts(tmp_path, monkeypatch):
  # Seconds of forward, input and evaluation in each of three rounds; a stall does not count.
  seconds = [1, 2, 4, 1, 2, 4, 50, 50, 50]
  ends = itertools.accumulate(seconds)
  clock = itertools.chain.from_iterable((end - last, end) for end, last in zip(ends, seconds))  # noqa: B905
  monkeypatch.setattr(evaluation, 'time', types.SimpleNamespace(perf_counter=clock.__next__))
  evaluate, results = evaluation.classify.evaluate, []
  keep = lambda *args, **kwargs: results.append(evaluate(*args, **kwargs))
  monkeypatch.setattr(evaluation.classify, 'evaluate', keep)
  evaluation.write_photographs(tmp_path, 40)
  config = MixerConfig(32, 2, 64, 32, 128, image_size=224, num_classes=2)
  rates = evaluation.measure(config, tmp_path, batch_size=16, rounds=3)
  assert rates == {'forward': 40, 'input': 20, 'evaluation': 10}
  assert [result.examples for result in results] == [40] * 3  # the padding is not counted
  assert '50% of the slower part, 75% of both on shared cores' in evaluation.told(rates)
