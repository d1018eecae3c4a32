"""Curves and predictions of a run."""

import io

import numpy as np
from PIL import Image

from mixer_jax.pictures import run_pictures


def test_mistakes_come_first_and_undecodable_images_are_left_out():
  labels = np.array([0, 1, 2, 3, 4, 5])
  predicted = np.array([0, 2, 2, 1, -1, 5])
  confidences = np.array([0.9, 0.5, 0.6, 0.8, 0.3, 0.7])
  order = run_pictures.mistakes_first(labels, predicted, confidences, 10)
  assert list(order) == [
    3,
    1,
    2,
    5,
    0,
  ]  # mistakes by confidence, then unsure hits
  assert list(run_pictures.mistakes_first(labels, predicted, confidences, 2)) == [3, 1]


def test_predictions_draw_each_image_and_mistakes_in_red():
  images = np.zeros((3, 8, 8, 3), np.uint8)
  images[:, :, :4] = [0, 0, 255]  # half of each is pure blue
  draw = lambda predicted: np.asarray(
    Image.open(
      io.BytesIO(
        run_pictures.predictions(
          list(images), np.array([0, 1, 2]), predicted, np.array([0.5, 0.6, 0.7]), ['a', 'b', 'c']
        )
      )
    ).convert('RGB')
  ).astype(int)
  right, wrong = draw(np.array([0, 1, 2])), draw(np.array([0, 0, 2]))
  blue = lambda pixels: ((pixels[..., 2] > 250) & (pixels[..., 0] < 5)).sum()
  red = lambda pixels: (
    (pixels[..., 0] > 150) & (pixels[..., 1] < 60) & (pixels[..., 2] < 60)
  ).sum()
  assert blue(right) > 1000
  assert red(right) == 0
  assert red(wrong) > 20


def test_curves_use_the_later_of_two_rows_of_a_step():
  row = lambda step, loss: {'step': step, 'loss': loss, 'accuracy': 0.5, 'learning_rate': 0.1}
  start, evaluation = (
    {'event': 'start', 'step': 0},
    {'event': 'eval', 'step': 2, 'loss': 1.0, 'top1': 50.0},
  )
  rows = [start, row(1, 2.0), row(2, 9.0), start, row(2, 1.0), evaluation]
  clean = [start, row(1, 2.0), row(2, 1.0), evaluation]
  assert run_pictures.curves(rows) == run_pictures.curves(clean)
  assert run_pictures.curves(rows) != run_pictures.curves([*rows, row(3, 0.5)])
  assert Image.open(io.BytesIO(run_pictures.curves(rows))).format == 'PNG'


def test_curves_show_few_shot_accuracy_and_mark_the_best_step(monkeypatch):
  kept = []
  monkeypatch.setattr(run_pictures, 'png_of', kept.append)
  few = {'event': 'fewshot', 'data': 'digits/test'}
  run_pictures.curves(
    [
      {'step': 1, 'loss': 2.0, 'accuracy': 0.5, 'learning_rate': 0.1},
      {**few, 'step': 2, '5-shot': 30.0, '5-shot_deviation': 1.0},
      {**few, 'step': 4, '5-shot': 40.0, '5-shot_deviation': 1.0, '1-shot': 20.0},
      {'event': 'early_stop', 'step': 9, 'best_step': 3},
      {'event': 'end', 'step': 9, 'best_step': 7},
    ]
  )
  (figure,) = kept
  lines = {line.get_label(): line for line in figure.axes[1].get_lines()}
  five = lines['5-shot, digits/test']
  assert (list(five.get_xdata()), list(five.get_ydata())) == ([2, 4], [30, 40])
  assert list(lines['1-shot, digits/test'].get_xdata()) == [4]
  assert 'best, step 7' in lines
  assert len(lines) == 4  # no evaluation: no line
  run_pictures.pyplot().close(figure)


def test_a_loss_is_logarithmic_only_if_it_spans_a_power_of_ten(monkeypatch):
  kept = []
  monkeypatch.setattr(run_pictures, 'png_of', kept.append)
  row = lambda step, loss: {'step': step, 'loss': loss, 'accuracy': 0.5, 'learning_rate': 0.1}
  for losses in ([2.0, 0.1], [2.0, 0.5], [2.0, 0.0], [2.0, float('nan'), 0.1], [1.0]):
    run_pictures.curves([row(step, loss) for step, loss in enumerate(losses)])
  assert [figure.axes[0].get_yscale() for figure in kept] == [
    'log', 'linear', 'linear', 'log', 'linear'
  ]  # fmt: skip
  for figure in kept:
    run_pictures.pyplot().close(figure)


def test_losses_that_hardly_differ_have_short_ticks(monkeypatch):
  kept = []
  monkeypatch.setattr(run_pictures, 'png_of', kept.append)
  row = lambda step, loss: {'step': step, 'loss': loss, 'accuracy': 0.5, 'learning_rate': 0.1}
  run_pictures.curves([row(1, 2.3025849), row(2, 2.3025850)])
  (figure,) = kept
  figure.canvas.draw()
  axis = figure.axes[0]
  assert axis.yaxis.get_offset_text().get_text() == ''
  assert max(len(label.get_text()) for label in axis.get_yticklabels()) <= 7
  run_pictures.pyplot().close(figure)
