"""Faults drawn from a seed: after each the same command resumes, and the bits are the same."""

import json

import pytest

from tests.helpers import campaign

RUNS = 32

pytestmark = pytest.mark.long


@pytest.fixture(scope='module')
def folders(tmp_path_factory, digits_dir):
  root = tmp_path_factory.mktemp('campaign')
  return root, digits_dir, campaign.make_images(root / 'images')


@pytest.fixture(scope='module')
def undisturbed(folders):
  """Return variant name -> the result of a run without faults."""
  root, data_dir, images = folders
  results = {}

  def result(variant: campaign.Variant):
    if variant.name not in results:
      with campaign.place(root / variant.name, data_dir, images) as place:
        assert campaign.run(place, variant, []) == []
        results[variant.name] = campaign.result(place)
    return results[variant.name]

  return result


def test_the_kinds_and_the_number_of_faults():
  drawn = [fault.kind for seed in range(RUNS) for fault in campaign.draw(seed)]
  assert len(drawn) >= 100
  assert set(drawn) == {*campaign.PASSING_CODES, *campaign.AT_REST, 'two starts'}


@pytest.mark.parametrize('seed', range(RUNS))
def test_a_run_through_drawn_faults_ends_in_the_same_bits(seed, folders, undisturbed, tmp_path):
  _, data_dir, images = folders
  variant = campaign.VARIANTS[seed % len(campaign.VARIANTS)]
  weights, losses = undisturbed(variant)
  with campaign.place(tmp_path, data_dir, images) as place:
    struck = campaign.run(place, variant, campaign.draw(seed))
    print(f'{variant.name}: {", ".join(struck)}')
    found, rows = campaign.result(place)
    lines = (place.workdir / 'metrics.jsonl').read_text().splitlines()
  assert found == weights
  assert all(losses[step] == loss for step, loss in rows.items())
  if not {'cut metrics', 'emptied metrics', 'NULs in metrics'} & set(struck):
    assert rows.keys() == losses.keys()
    for line in lines:
      json.loads(line)
  assert struck
