"""`mixer-jax permute`: what shuffled pixels cost a Mixer and a ResNet (section 3.4)."""

import dataclasses
import json
import math
import sys
from typing import Any

from mixer_jax import models
from mixer_jax.analysis.permutation import outcomes
from mixer_jax.commands import flags
from mixer_jax.data.permute import INPUTS
from mixer_jax.errors import UserError
from mixer_jax.paths import user_path
from mixer_jax.pictures import comparisons
from mixer_jax.runlog import console
from mixer_jax.runs import config_file
from mixer_jax.runs.run_config import RunConfig
from mixer_jax.studies import study
from mixer_jax.studies.study import curve

_TOLD = {
  'none': 'images as they are',
  'patches': 'patches and pixels in them shuffled',
  'pixels': 'all pixels shuffled',
}


@dataclasses.dataclass(frozen=True)
class _Run(study.Run):
  model: str
  inputs: str


def main(argv: list[str]) -> None:
  """Trains each model on each kind of input from several seeds, and compares them.

  The same command again goes on where it stopped. WORKDIR holds a folder for each run,
  `permute.json` and `permute.png`.
  """
  parser = flags.Parser('permute', __doc__ or '')
  parser.add_config(
    required=True,
    example='configs/permutation.py:digits',
    note=', as in --config.models.mixer.total_steps=100',
  )
  parser.add_argument('--workdir', required=True, help='folder of all runs, local or gs://…')
  args, overrides = parser.parse(argv)
  console.setup_console()
  config = config_file.load_config(args.config, overrides)
  folder = user_path(args.workdir)
  runs = _runs(config, str(folder))
  study.join('permute', args, config, runs)
  sizes = {run.model: checked.model for run, checked in zip(runs, study.check(runs), strict=True)}
  study.train_all(runs)
  if not study.leave():
    return
  report = _report(runs, sizes)
  (folder / 'permute.json').write_text(json.dumps(report, indent=2) + '\n')
  (folder / 'permute.png').write_bytes(_picture(report))
  sys.stdout.write(_table(report) + _verdict(report))
  print(f'permute.json and permute.png are in {folder}')


def _runs(config: dict[str, Any], folder: str) -> list[_Run]:
  """All runs: those of one seed before those of the next."""
  if set(config) != {'seeds', 'models'} or not isinstance(config['models'], dict):
    raise UserError('the config has the fields seeds and models: begin with configs/permutation.py')
  if type(config['seeds']) is not int or config['seeds'] < 1 or not config['models']:
    raise UserError('config.seeds must be at least 1, and config.models hold an experiment each')
  runs = []
  for seed in range(config['seeds']):
    for model, shared in config['models'].items():
      for inputs in INPUTS:
        own = RunConfig.from_fields(shared)
        own = own.with_fields({'seed': own.seed + seed, 'data.permutation': inputs})
        name = f'{model} on {inputs}, seed {own.seed}'
        runs.append(_Run(name, own, f'{folder}/{model}/{inputs}/{own.seed}', model, inputs))
  return runs


def _report(runs: list[_Run], sizes: dict[str, models.ModelConfig]) -> dict[str, Any]:
  """What `permute.json` holds: each model's outcomes and curves, by kind of input."""
  report = {}
  for name, model in sizes.items():
    own = [run for run in runs if run.model == name]
    curves = {kind: [curve(run.folder) for run in own if run.inputs == kind] for kind in INPUTS}
    finals = {
      kind: [study.outcome(run.folder) for run in own if run.inputs == kind] for kind in INPUTS
    }
    summary = outcomes(finals)
    report[name] = {
      'variant': models.variant_of(model),
      'parameters': models.num_params(model),
      'gflop': models.forward_flops(model) / 1e9,
      'steps': max(max(steps) for seeds in curves.values() for steps in seeds),
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


def _verdict(report: dict[str, Any]) -> str:
  """Whether runs show what section 3.4 says, in words."""
  lines = []
  for name, told in report.items():
    patches = told['inputs']['patches']
    if patches['noise'] is not None:
      within = abs(patches['lost']) <= 2 * patches['noise']
      how = 'within' if within else 'beyond'
      lines.append(f'{name}: {_TOLD["patches"]} differs {how} noise (two standard errors)')
  losses = {name: told['inputs']['pixels']['relative_loss'] for name, told in report.items()}
  least, *others = sorted(losses, key=lambda name: losses[name])
  beside = ''.join(f', {other} {100 * losses[other]:.1f} %' for other in others)
  lines.append(f'all pixels shuffled: {least} loses the least, {100 * losses[least]:.1f} %{beside}')
  return '\n'.join(lines) + '\n'


def _with_error(outcome: dict[str, Any], name: str, error: str) -> str:
  text = f'{outcome[name]:.2f}'
  return text if outcome[error] is None else f'{text} ± {outcome[error]:.2f}'
