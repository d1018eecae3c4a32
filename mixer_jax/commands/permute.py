"""`mixer-jax permute`: what shuffled pixels cost a Mixer and a ResNet (section 3.4)."""

import dataclasses
import json
import logging
import math
import sys
import time
from typing import Any

from ml_collections import ConfigDict

from mixer_jax import models
from mixer_jax.analysis.permutation import outcomes
from mixer_jax.commands import arguments, experiment, screen, train, workdir
from mixer_jax.data.permute import INPUTS
from mixer_jax.errors import PreemptedError, UserError
from mixer_jax.parallel import processes
from mixer_jax.paths import user_path
from mixer_jax.reporting import comparisons
from mixer_jax.reporting.metrics import read_metrics
from mixer_jax.reporting.terminal import Terminal

log = logging.getLogger(__name__)

_TOLD = {
  'none': 'images as they are',
  'patches': 'patches and pixels in them shuffled',
  'pixels': 'all pixels shuffled',
}


@dataclasses.dataclass(frozen=True)
class _Run:
  """One training run of the study, and its folder."""

  model: str
  inputs: str
  config: ConfigDict
  folder: str


def main(argv: list[str]) -> None:
  """Trains each model on each kind of input from several seeds, and compares them.

  The same command again goes on where it stopped. WORKDIR holds a folder for each run,
  `permute.json` and `permute.png`.
  """
  parser = arguments.Parser('permute', __doc__ or '')
  parser.add_config(
    required=True,
    example='configs/permutation.py:digits',
    note=', as in --config.models.mixer.total_steps=100',
  )
  parser.add_argument('--workdir', required=True, help='folder of all runs, local or gs://…')
  args, overrides = parser.parse(argv)
  terminal = screen.open_screen()
  study = arguments.load_config(args.config, overrides)
  folder = user_path(args.workdir)
  runs = _runs(study, str(folder))
  experiment.join_processes('permute', args, runs[0].config, terminal, preemptible=True)
  processes.check_same({name: repr(value) for name, value in arguments.fields(study).items()})
  sizes = {run.model: _check(run) for run in runs}
  try:
    for number, run in enumerate(runs):
      log.info('run %d of %d: %s on %s', number + 1, len(runs), run.model, _TOLD[run.inputs])
      _train(run, terminal)
  except PreemptedError:
    processes.leave_together()
    raise
  is_first = experiment.tells()
  processes.leave_together()
  if not is_first:
    return
  report = _report(runs, sizes)
  (folder / 'permute.json').write_text(json.dumps(report, indent=2) + '\n')
  (folder / 'permute.png').write_bytes(_picture(report))
  sys.stdout.write(_table(report))
  print(f'permute.json and permute.png are in {folder}')


def _runs(study: ConfigDict, folder: str) -> list[_Run]:
  """All runs: those of one seed before those of the next."""
  if set(study) != {'seeds', 'models'} or not isinstance(study.models, ConfigDict):
    raise UserError('the config has the fields seeds and models: begin with configs/permutation.py')
  if type(study.seeds) is not int or study.seeds < 1 or not len(study.models):
    raise UserError('config.seeds must be at least 1, and config.models hold an experiment each')
  runs = []
  for seed in range(study.seeds):
    for model, config in study.models.items():
      for inputs in INPUTS:
        own = config.copy_and_resolve_references()
        with own.unlocked():
          own.seed += seed
          own.data.permutation = inputs
        runs.append(_Run(model, inputs, own, f'{folder}/{model}/{inputs}/{own.seed}'))
  return runs


def _check(run: _Run) -> models.ModelConfig:
  """The model of a run, all of which has been looked at; writes nothing."""
  try:
    exp = experiment.check(run.config, None)
    known = workdir.stored_run(run.folder)
    if known:
      workdir.check_same_run(run.folder, run.config, known)
  except UserError as error:
    raise UserError(f'{run.model} on {run.inputs}: {error}') from error
  return exp.model


def _train(run: _Run, terminal: Terminal) -> None:
  done = run.config.total_steps in _curve(run.folder)
  processes.check_same({f'what {run.folder} holds': str(done)})
  if not done:
    train.run(run.config, run.folder, terminal, time.monotonic())


def _curve(folder: str) -> dict[int, float]:
  """Step -> top-1 of the evaluations of a run."""
  return {row['step']: row['top1'] for row in read_metrics(folder) if row.get('event') == 'eval'}


def _report(runs: list[_Run], sizes: dict[str, models.ModelConfig]) -> dict[str, Any]:
  """What `permute.json` holds: each model's outcomes and curves, by kind of input."""
  report = {}
  for name, model in sizes.items():
    own = [run for run in runs if run.model == name]
    curves = {kind: [_curve(run.folder) for run in own if run.inputs == kind] for kind in INPUTS}
    last = own[0].config.total_steps
    summary = outcomes({kind: [c[last] for c in seeds] for kind, seeds in curves.items()})
    report[name] = {
      'variant': models.variant_of(model),
      'parameters': models.num_params(model),
      'gflop': models.forward_flops(model) / 1e9,
      'steps': last,
      'data': own[0].config.data.name,
      'inputs': {
        kind: {
          **{k: None if math.isnan(v) else v for k, v in dataclasses.asdict(summary[kind]).items()},
          'seeds': [run.config.seed for run in own if run.inputs == kind],
          'top1': curves[kind],
        }
        for kind in INPUTS
      },
    }
  return report


def _picture(report: dict[str, Any]) -> bytes:
  panels = {
    f'{name}, {told["parameters"]:,} parameters': {
      _TOLD[kind]: outcome['top1'] for kind, outcome in told['inputs'].items()
    }
    for name, told in report.items()
  }
  data = next(iter(report.values()))['data']
  return comparisons.comparison(panels, f'top-1 of the evaluation split of {data}, %')


def _table(report: dict[str, Any]) -> str:
  lines = [f'{"model":10} {"input":36} {"top-1, %":>14} {"lost, points":>16} {"relative":>9}']
  for name, told in report.items():
    for kind, outcome in told['inputs'].items():
      top1, lost = _with_error(outcome, 'mean', 'deviation'), _with_error(outcome, 'lost', 'noise')
      share = f'{100 * outcome["relative_loss"]:.1f} %'
      lines.append(f'{name:10} {_TOLD[kind]:36} {top1:>14} {lost:>16} {share:>9}')
  return '\n'.join(lines) + '\n'


def _with_error(outcome: dict[str, Any], name: str, error: str) -> str:
  text = f'{outcome[name]:.2f}'
  return text if outcome[error] is None else f'{text} ± {outcome[error]:.2f}'
