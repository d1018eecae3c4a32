"""Pictures that compare runs."""

import io

import pytest
from PIL import Image

from mixer_jax.pictures import comparisons
from mixer_jax.pictures.drawing import pyplot


def test_means_are_of_the_steps_that_all_runs_have(monkeypatch):
  kept = []
  monkeypatch.setattr(comparisons, 'png_of', kept.append)
  runs = [{1: 10.0, 2: 20.0, 4: 40.0}, {2: 30.0, 3: 1.0, 4: 50.0}]
  comparisons.comparison(
    {'Mixer': {'shuffled': runs}, 'ResNet': {'unshuffled': [{2: 90.0}]}}, 'top-1'
  )
  (figure,) = kept
  first, second = figure.axes
  assert [axis.get_title() for axis in figure.axes] == ['Mixer', 'ResNet']
  thick = max(first.get_lines(), key=lambda line: line.get_linewidth())
  assert (list(thick.get_xdata()), list(thick.get_ydata())) == ([2, 4], [25.0, 45.0])
  assert thick.get_label() == 'shuffled: 45.0'
  assert len(first.get_lines()) == 3
  assert second.get_lines()[-1].get_label() == 'unshuffled: 90.0'
  pyplot().close(figure)


@pytest.mark.parametrize('panels', [1, 2])
def test_it_is_a_png_with_a_panel_for_each_model(panels):
  png = comparisons.comparison({str(i): {'x': [{1: 1.0, 2: 2.0}]} for i in range(panels)}, 'top-1')
  with Image.open(io.BytesIO(png)) as picture:
    assert picture.size[0] == pytest.approx(panels * 5.2 * 110, abs=2)
