"""The table, the verdict and the picture of a small report."""

import io

import numpy as np
import pytest
from PIL import Image

from mixer_jax.pictures.drawing import pyplot
from mixer_jax.studies import pruning_report


def row(score, way, seed, gone, after, recovered, loss=1.0):
  return {
    'score': score, 'way': way, 'seed': seed, 'removed': len(gone), 'blocks_removed': gone,
    'after_removal': after, 'after_recovery': recovered, 'scored_loss': loss,
    'parameters': 1000 - 100 * len(gone), 'gflop': 2 - 0.25 * len(gone),
    'latency': {'seconds': 0.1, 'ratio': 1 - 0.125 * len(gone)},
  }  # fmt: skip


def report(recovered=True) -> dict:
  back = lambda *values: list(values) if recovered else []
  return {
    'variant': 'Mixer of 8 blocks, width 64',
    'model': {'num_blocks': 8},
    'scored_on': 'digits/train',
    'tested_on': 'digits/test',
    'device': 'cpu',
    'latency_batch': 64,
    'recovery_steps': 150,
    'whole': {
      'top1': 99.0,
      'after_recovery': back(99.5, 98.5),
      **{k: v for k, v in row('', '', 0, [], 0, 0).items() if k in COSTS},
    },
    'rows': [
      row('cosine', 'at_once', 0, [7], 98.0, back(99.0, 98.0), loss=0.1),
      row('cosine', 'one_by_one', 0, [7], 98.0, back(99.0, 98.0), loss=0.1),
      row('random', 'at_once', 0, [0], 20.0, back(70.0), loss=5.0),
      row('random', 'at_once', 1, [3], 60.0, back(90.0), loss=4.0),
      row('cosine', 'at_once', 0, [6, 7], 90.0, back(97.0, 97.0), loss=0.5),
      row('cosine', 'one_by_one', 0, [5, 7], 88.0, back(99.5, 99.5), loss=0.4),
    ],
  }


COSTS = ('parameters', 'gflop', 'latency')


def test_the_table_has_a_line_for_each_removal_and_means_over_seeds():
  lines = [' '.join(line.split()) for line in pruning_report.table(report()).splitlines()]
  assert lines[1] == 'none 99.00 99.00 ± 0.71 1,000 2 1.00'
  assert '7 cosine 98.00 98.50 ± 0.71 900 1.75 0.88' in lines
  assert 'any 1 random 40.00 ± 28.28 80.00 ± 14.14 900 1.75 0.88' in lines
  assert '5,7 cosine, one by one 88.00 99.50 ± 0.00 800 1.5 0.75' in lines
  assert len(lines) == 7


def test_the_verdict_chooses_by_the_images_that_were_scored():
  one, two = pruning_report.verdict(report()).splitlines()
  assert one == (
    '1 of 8 blocks: the least loss on digits/train is by cosine: top-1 98.00 %, at random '
    '40.00 ± 28.28 %; recovered 98.50 %, 0.50 points less than the complete model'
  )
  assert 'is by cosine, one by one: top-1 88.00 %; recovered 99.50 %, 0.50 points more' in two
  assert 'recovered' not in pruning_report.verdict(report(recovered=False))


@pytest.mark.parametrize('recovered', [True, False])
def test_the_picture_has_a_panel_for_each_figure(recovered, monkeypatch):
  kept = []
  draw = pruning_report.png_of
  monkeypatch.setattr(pruning_report, 'png_of', lambda figure: kept.append(figure) or draw(figure))
  png = pruning_report.picture(report(recovered))
  with Image.open(io.BytesIO(png)) as image:
    assert image.size[0] > 1.5 * image.size[1]
  first, *rest = kept[0].axes
  assert len(rest) == 1 + recovered
  curves = {line.get_label(): line for line in first.get_lines() if line.get_marker() == 'o'}
  points = [np.round(line.get_xydata()).tolist() for line in curves.values()]
  assert points == [[[1, 98], [2, 90]], [[1, 98], [2, 88]], [[1, 40]]]
  assert len({line.get_xdata()[0] for line in curves.values()}) == 3  # none hides another
  shares = {line.get_label(): list(line.get_ydata()) for line in rest[-1].get_lines()}
  assert shares == {
    'parameters': [1, 0.9, 0.8],
    'FLOP': [1, 0.875, 0.75],
    'latency': [1, 0.875, 0.75],
  }
  pyplot().close(kept[0])
