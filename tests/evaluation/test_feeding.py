"""The benchmark of evaluation runs; its rates are printed, not tested."""

from benchmarks import evaluation
from mixer_jax.models import MixerConfig


def test_the_benchmark_of_evaluation_runs(tmp_path):
  evaluation.write_photographs(tmp_path, 40)
  config = MixerConfig(32, 2, 64, 32, 128, image_size=224, num_classes=2)
  rates = evaluation.measure(config, tmp_path, batch_size=16, rounds=3)
  print(evaluation.told(rates))
  assert rates.keys() == {'forward', 'input', 'evaluation'}
  assert all(rate > 0 for rate in rates.values())
