"""`mixer-jax scaling`: what accuracy models come to on parts of the training images."""

import dataclasses
import json
import re
import statistics
import sys
from typing import Any

from mixer_jax import models
from mixer_jax.commands import flags
from mixer_jax.errors import UserError
from mixer_jax.paths import user_path
from mixer_jax.pictures import comparisons
from mixer_jax.runlog import console
from mixer_jax.runs import config_file
from mixer_jax.runs.experiment import Experiment
from mixer_jax.runs.fields import list_text, parse_numbers
from mixer_jax.runs.run_config import RunConfig
from mixer_jax.studies import study

_FIELDS = {'seeds', 'percents', 'epochs', 'metric', 'models'}


@dataclasses.dataclass(frozen=True)
class _Run(study.Run):
  model: str
  percent: float


def main(argv: list[str]) -> None:
  """Trains each model on each part of its training split, from several seeds, and compares them.

  The same command again goes on where it stopped. WORKDIR holds a folder for each run,
  `scaling.json` and `scaling.png`.
  """
  parser = flags.Parser('scaling', __doc__ or '')
  parser.add_config(
    required=True,
    example='configs/data_scaling.py:digits',
    note=', as in --config.seeds=1 or --config.models.resnet.early_stopping.patience=9',
  )
  parser.add_argument('--workdir', required=True, help='folder of all runs, local or gs://…')
  args, overrides = parser.parse(argv)
  console.setup_console()
  config = config_file.load_config(args.config, overrides)
  folder = user_path(args.workdir)
  runs = _runs(config, str(folder))
  study.join('scaling', args, config, runs)
  checked = study.check(runs)
  _check_metric(config['metric'], runs, checked)
  study.train_all(runs)
  if not study.leave():
    return
  report = _report(config['metric'], runs, checked)
  (folder / 'scaling.json').write_text(json.dumps(report, indent=2) + '\n')
  (folder / 'scaling.png').write_bytes(_picture(report))
  sys.stdout.write(_table(report))
  print(f'scaling.json and scaling.png are in {folder}')


def _runs(config: dict[str, Any], folder: str) -> list[_Run]:
  """All runs: those of one seed before those of the next."""
  if set(config) != _FIELDS or not isinstance(config['models'], dict) or not config['models']:
    raise UserError(
      f'the config has the fields {", ".join(sorted(_FIELDS))}: begin with configs/data_scaling.py'
    )
  if type(config['seeds']) is not int or config['seeds'] < 1:
    raise UserError(f'config.seeds must be at least 1, is {config["seeds"]!r}')
  percents = parse_numbers('config.percents', config['percents'], float)
  epochs = parse_numbers('config.epochs', config['epochs'], float)
  if not all(0 < percent <= 100 for percent in percents) or len(set(percents)) < len(percents):
    raise UserError(f'config.percents={list_text(config["percents"])}: each in (0, 100], and once')
  if len(epochs) != len(percents) or min(epochs) <= 0:
    raise UserError(
      f'config.epochs={list_text(config["epochs"])}: more than 0 for each of '
      f'{list_text(config["percents"])} %'
    )
  runs = []
  for seed in range(config['seeds']):
    for model, shared in config['models'].items():
      for percent, passes in zip(percents, epochs, strict=True):
        own = RunConfig.from_fields(shared)
        own = own.with_fields(
          {
            'seed': own.seed + seed,
            'total_epochs': passes,
            'data.train_split': _part(model, own.data.train_split, percent),
          }
        )
        name = f'{model} on {percent:g} %, seed {own.seed}'
        place = f'{folder}/{model.replace("/", "_")}/{percent:g}/{own.seed}'
        runs.append(_Run(name, own, place, model, percent))
  return runs


def _part(model: str, split: str, percent: float) -> str:
  """The first images of a split: 3 % of 'train[:90%]' are 'train[:2.7%]'."""
  found = re.fullmatch(r'(\w+)(?:\[:([\d.]+)%\])?', split)
  if found is None:
    raise UserError(
      f"{model}: config.data.train_split {split!r} cannot be cut into parts: 'train' or "
      "'train[:99%]' can"
    )
  return split if percent == 100 else f'{found[1]}[:{percent * float(found[2] or 100) / 100:g}%]'


def _check_metric(metric: str, runs: list[_Run], checked: list[Experiment]) -> None:
  for run, experiment in zip(runs, checked, strict=True):
    if metric not in experiment.metrics():
      raise UserError(
        f'config.metric is {metric!r}, and {run.model} is evaluated by '
        f'{", ".join(experiment.metrics())}'
      )


def _report(metric: str, runs: list[_Run], checked: list[Experiment]) -> dict[str, Any]:
  """What `scaling.json` holds: of each model, what its runs on each part came to."""
  report: dict[str, Any] = {}
  for run, experiment in zip(runs, checked, strict=True):
    model = experiment.model
    told = report.setdefault(
      run.model,
      {
        'variant': models.variant_of(model),
        'parameters': models.num_params(model),
        'gflop': models.forward_flops(model) / 1e9,
        'metric': metric,
        'of': experiment.metrics()[metric],
        'parts': {},
      },
    )
    part = told['parts'].setdefault(
      f'{run.percent:g}',
      {
        'images': len(experiment.source),
        'epochs': run.config.total_epochs,
        'steps': experiment.total_steps,
        'runs': [],
      },
    )
    end = study.end(run.folder)
    ended = {'ended': end['step'], 'best': end.get('best_step')}
    outcome = study.outcome(run.folder, metric)
    part['runs'].append({'seed': run.config.seed, **ended, metric: outcome})
  for told in report.values():
    for part in told['parts'].values():
      values = [run[metric] for run in part['runs']]
      part['mean'] = statistics.mean(values)
      part['deviation'] = statistics.stdev(values) if len(values) > 1 else None
  return report


_TITLES = {'top1': 'top-1, %', 'top5': 'top-5, %', 'real': 'ReaL, %', 'loss': 'loss'}


def _title(told: dict[str, Any]) -> str:
  metric = told['metric']
  return f'{_TITLES.get(metric, f"{metric}, %")} of {told["of"]}'


def _picture(report: dict[str, Any]) -> bytes:
  lines = {
    f'{name}, {told["parameters"]:,} parameters': {
      part['images']: [run[told['metric']] for run in part['runs']]
      for part in told['parts'].values()
    }
    for name, told in report.items()
  }
  shares = {
    part['images']: f'{percent} %'
    for told in report.values()
    for percent, part in told['parts'].items()
  }
  return comparisons.scaling(lines, shares, _title(next(iter(report.values()))))


def _table(report: dict[str, Any]) -> str:
  lines = []
  for name, told in report.items():
    if not lines:
      lines.append(f'{"model":12} {"part":>6} {"images":>12} {"best step":>16}   {_title(told)}')
    for percent, part in told['parts'].items():
      steps = ', '.join(str(run['best'] or run['ended']) for run in part['runs'])
      figure = f'{part["mean"]:.2f}'
      if part['deviation'] is not None:
        figure += f' ± {part["deviation"]:.2f}'
      lines.append(f'{name:12} {percent + " %":>6} {part["images"]:12,} {steps:>16}   {figure}')
  return '\n'.join(lines) + '\n'
