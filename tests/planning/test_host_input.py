"""The input that the hosts of a slice must and can deliver."""

import dataclasses
import json
import logging

import pytest

from mixer_jax.errors import UserError
from mixer_jax.planning import host_input, plan_text
from mixer_jax.planning import plan as plans
from mixer_jax.planning.host_input import InputRate
from mixer_jax.planning.topologies import find
from tests.helpers import configs
from tests.planning.test_plan import FACTS, PROGRAM

RATE = InputRate(2e-3, 1e-5, 0.625, 'a test', ('a way out',))
ROW = {
  'cpu_seconds_per_image': 2e-3,
  'feeding_seconds_per_image': 1e-5,
  'threads_per_core': 2,
  'cores': 96,
  'cpu': 'Some CPU',
  'recipe': {'randaugment_layers': 0, 'image_size': 224},
}


def data(**fields):
  return configs.run_config('configs/digits.py', **{f'data.{k}': v for k, v in fields.items()}).data


def test_a_host_is_limited_by_its_threads_or_by_the_process_that_feeds_the_devices():
  assert RATE.of_host(96) == pytest.approx(0.625 * 96 / 2e-3)
  assert RATE.of_host(10_000) == pytest.approx(0.625 / 1e-5)
  assert RATE.remedies_of_host(96) == ('a way out', 'hosts with more hardware threads per chip')
  (remedy,) = RATE.remedies_of_host(10_000)
  assert 'their feeding process is the limit' in remedy


@pytest.mark.parametrize(('batch_size', 'keeps_up'), [(16_000, True), (32_000, False)])
def test_a_run_waits_for_an_input_that_is_slower_than_its_step(batch_size, keeps_up):
  report = host_input.report(RATE, find('v3:4x4'), batch_size, 3600, 0.2)
  assert (report['hosts'], report['hardware_threads_per_host']) == (4, 96)
  assert report['needed_images_per_second_per_host'] == pytest.approx(batch_size / 0.2 / 4)
  assert report['possible_images_per_second_per_host'] == pytest.approx(30_000)
  assert report['keeps_up'] is keeps_up
  seconds = 0.2 if keeps_up else 8000 / 30_000
  assert report['step_seconds'] == pytest.approx(seconds)
  assert report['hours'] == pytest.approx(seconds)
  assert report['core_days'] == pytest.approx(seconds * 32 / 24)


def test_a_plan_names_both_times_and_the_way_out():
  slow = dataclasses.replace(RATE, cpu_seconds=1.0)
  made = plans.Plan(PROGRAM, '', FACTS, slow)
  report = made.report()
  assert report['hours'] < report['input']['hours'] == pytest.approx(1024 / 4 / 60 * 1000 / 3600)
  json.dumps(report)
  text = plan_text.full(made, 'x.py')
  assert 'input: each of 4 hosts must deliver 5,120 images/s; its 96 hardware threads' in text
  assert 'can deliver about 60\n  (a test)\n' in text
  assert 'cannot keep up: 4.27 s per update, 1.2 hours, 1.6 core-days' in text
  assert 'faster are a way out, hosts with more' in text
  header, row = plan_text.table(['x'], [report]).splitlines()
  assert header.endswith('host needs  host can  hours then  core-days then')
  assert row.split()[-4:] == ['5,120', '60', '1.2', '1.6']
  assert '(a test)' in plan_text.table_note([report])


def test_a_plan_whose_input_keeps_up_has_one_time():
  report = plans.Plan(PROGRAM, '', FACTS, RATE).report()
  assert report['input']['keeps_up']
  assert report['input']['step_seconds'] == report['estimated_step_seconds']
  assert 'cannot keep up' not in plan_text.full(plans.Plan(PROGRAM, '', FACTS, RATE), 'x.py')
  assert plan_text.table(['x'], [report]).split()[-2:] == ['5,120', '30,000']


def test_a_plan_without_a_rate_or_that_does_not_fit_has_no_input():
  made = plans.Plan(PROGRAM, '', FACTS)
  assert made.report()['input'] is None
  assert plan_text.table_note([made.report()]) == plan_text.NOTE
  step = dataclasses.replace(FACTS.step, needed=1e12)
  made = plans.Plan(PROGRAM, '', dataclasses.replace(FACTS, step=step, evaluation=None), RATE)
  assert made.report()['input'] is None


def test_the_built_in_rate_is_named_and_grows_with_randaugment_and_pixels():
  plain = host_input.built_in(data(), 224)
  assert 'built-in rate' in plain.source
  assert 'AMD EPYC' in plain.source
  more = host_input.built_in(data(randaugment_layers=2), 224)
  assert more.cpu_seconds > plain.cpu_seconds
  assert host_input.built_in(data(randaugment_layers=2), 448).cpu_seconds > more.cpu_seconds
  assert 'fewer config.data.randaugment_layers' in more.remedies
  assert 'fewer config.data.randaugment_layers' not in plain.remedies


@pytest.mark.parametrize(('threads_per_core', 'share'), [(1, 0.625), (2, 1.0)])
def test_the_rate_of_a_bench_file(tmp_path, caplog, threads_per_core, share):
  file = tmp_path / 'bench.json'
  row = {**ROW, 'threads_per_core': threads_per_core}
  file.write_text(json.dumps({'parts': {'input': row}}))
  rate = host_input.measured(str(file), data(), 224)
  assert rate.of_host(96) == pytest.approx(share * 48_000)
  assert '2.00 ms per image on 96 hardware threads of Some CPU' in rate.source
  assert not caplog.records
  with caplog.at_level(logging.WARNING):
    host_input.measured(str(file), data(randaugment_layers=2), 224)
  assert 'was measured with randaugment_layers=0, and the config has 2' in caplog.text


@pytest.mark.parametrize(
  'text',
  [
    '',
    '[]',
    '{"parts": {}}',
    json.dumps({'parts': {'input': {**ROW, 'cpu_seconds_per_image': None}}}),
    json.dumps({'parts': {'input': {**ROW, 'feeding_seconds_per_image': 0.0}}}),
  ],
  ids=['empty', 'list', 'part', 'none', 'zero'],
)
def test_a_file_without_a_rate_is_refused(tmp_path, text):
  file = tmp_path / 'bench.json'
  file.write_text(text)
  with pytest.raises(UserError, match='has no CPU time of the input: write it with bench'):
    host_input.measured(str(file), data(), 224)
  with pytest.raises(UserError, match=r'no file .*absent: write it with bench'):
    host_input.measured(str(tmp_path / 'absent'), data(), 224)
