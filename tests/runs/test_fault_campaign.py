"""Faults drawn from a seed: after each the same command resumes, and the bits are the same."""

import json

import pytest

from tests.helpers import campaign, damage

RUNS, POD_RUNS = 36, 4
FEWEST, FEWEST_OF_POD = 3, 4
"""Faults that strike in each run; of those drawn, one may come too late."""

pytestmark = pytest.mark.long


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """Return the folder of undisturbed runs, and the data of all."""
  root = tmp_path_factory.mktemp('campaign')
  return root, campaign.make_data(root / 'data')


@pytest.fixture(scope='module')
def undisturbed(folders):
  """Return variant -> the result of a run without faults, and the programs that it compiled."""
  root, data = folders
  results = {}

  def result(variant: campaign.Variant):
    if variant.name not in results:
      with campaign.place(root / variant.name, data) as place:
        assert campaign.run(place, variant, []) == []
        results[variant.name] = campaign.result(place, variant), place.cache / 'compiled'
    return results[variant.name]

  return result


def test_the_kinds_and_the_number_of_faults():
  drawn = [fault.kind for seed in range(RUNS) for fault in campaign.draw(seed)]
  assert set(drawn) == {*campaign.PASSING_CODES, *damage.AT_REST, 'cut data'}
  of_pods = [fault.kind for seed in range(POD_RUNS) for fault in campaign.draw_of_pod(seed)]
  assert set(of_pods) == set(campaign.POD_KINDS)
  assert RUNS * FEWEST + POD_RUNS * FEWEST_OF_POD >= 100


@pytest.mark.parametrize('seed', range(RUNS))
def test_a_run_through_drawn_faults_ends_in_the_same_bits(seed, folders, undisturbed, tmp_path):
  variant = campaign.VARIANTS[seed % len(campaign.VARIANTS)]
  (weights, losses), programs = undisturbed(variant)
  with campaign.place(tmp_path / 'run', folders[1], programs) as place:
    struck = campaign.run(place, variant, campaign.draw(seed))
    found, rows = campaign.result(place, variant)
    lines = (place.workdir / 'metrics.jsonl').read_text().splitlines()
  print(f'{variant.name}: {", ".join(struck)}')
  assert found == weights
  assert all(losses[step] == loss for step, loss in rows.items())
  if not {'cut metrics', 'emptied metrics', 'NULs in metrics'} & set(struck):
    assert rows.keys() == losses.keys()
    for line in lines:
      json.loads(line)
  assert len(struck) >= FEWEST, struck


@pytest.mark.parametrize('seed', range(POD_RUNS))
def test_a_pod_through_drawn_faults_ends_in_the_same_bits(seed, folders, undisturbed, tmp_path):
  expected, programs = undisturbed(campaign.POD)
  with campaign.place(tmp_path / 'run', folders[1], programs) as place:
    struck = campaign.run_pod(place, campaign.draw_of_pod(seed))
    found = campaign.result(place, campaign.POD)
  print(f'pod: {", ".join(struck)}')
  assert found == expected
  assert len(struck) >= FEWEST_OF_POD, struck
