"""`mixer-jax identify` on two 8-block Mixers that learned the digits from different seeds."""

import json

import pytest

from mixer_jax.__main__ import main


@pytest.mark.long
def test_three_of_four_layers_are_found_again(digits_dir, tmp_path):
  for seed in range(2):
    where = [f'--workdir={tmp_path / str(seed)}', f'--config.data.data_dir={digits_dir}']
    assert main(['train', '--config=configs/identify.py', f'--config.seed={seed}', *where]) == 0
  report = tmp_path / 'report.json'
  pair = [f'--checkpoint={tmp_path / "0"}', f'--other={tmp_path / "1"}']
  # The input of token mixing; benchmarks/results/identify_digits.json has other layers.
  layers = '--layers=block_*/token_mixing/norm'
  assert main(['identify', *pair, layers, f'--output={tmp_path / "id"}', f'--json={report}']) == 0
  figures = json.loads(report.read_text())
  assert (len(figures['layers']), figures['images'], figures['features']) == (8, 360, 'flatten')
  found = [figures[way]['accuracy'] for way in ('identified', 'identified_back')]
  assert sum(found) / 2 >= 75, (found, figures['cka'])
