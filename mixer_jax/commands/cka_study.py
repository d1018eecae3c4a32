"""`mixer-jax cka-study`: what CKA and probes say of Mixers of several depths, widths and seeds."""

import dataclasses
import functools
import itertools
import json
import logging
import sys
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

from mixer_jax import checkpoints, models
from mixer_jax.analysis import cka_all_pairs, layers
from mixer_jax.analysis.cka import MinibatchCKA
from mixer_jax.analysis.hsic import KERNELS, Method, check_images
from mixer_jax.commands import flags
from mixer_jax.data import pipeline
from mixer_jax.errors import UserError
from mixer_jax.evaluation import probe
from mixer_jax.evaluation.probe import LayerProbe, ProbeConfig
from mixer_jax.parallel import mesh as meshes
from mixer_jax.parallel import processes
from mixer_jax.paths import user_path
from mixer_jax.runlog import console
from mixer_jax.runlog.progress import reading
from mixer_jax.runs import config_file, experiment
from mixer_jax.runs.experiment import Experiment
from mixer_jax.runs.fields import build, parse_names
from mixer_jax.runs.run_config import RunConfig
from mixer_jax.studies import cka_report, study
from mixer_jax.studies.cka_report import Member

log = logging.getLogger(__name__)

_FIELDS = ('seeds', 'layers', 'features', 'kernels', 'bandwidth', 'probe', 'models')


@dataclasses.dataclass(frozen=True)
class _Run(study.Run):
  model: str


@dataclasses.dataclass(frozen=True)
class _Settings:
  """What a study looks at, once its runs are trained."""

  methods: dict[str, Method]
  """By kernel."""
  names: dict[str, list[str]]
  """Layers of each model."""
  features: str
  probe: ProbeConfig


def main(argv: list[str]) -> None:
  """Trains each model from several seeds, then compares all layers of all of them.

  The same command again goes on where it stopped. Every model is also looked at as it was before
  training. WORKDIR holds a folder for each run, `cka_study.json`, `cka_study.npz`, a picture for
  each kind of comparison and kernel, and `probes.png`. Images are those of the model that is first
  by its name.
  """
  parser = flags.Parser('cka-study', __doc__ or '')
  parser.add_config(
    required=True,
    example='configs/cka_study.py:digits',
    note=', as in --config.models.blocks_8.total_steps=100',
  )
  parser.add_argument('--workdir', required=True, help='folder of all runs, local or gs://…')
  args, overrides = parser.parse(argv)
  console.setup_console()
  config = config_file.load_config(args.config, overrides)
  folder = user_path(args.workdir)
  runs = _runs(config, str(folder))
  study.join('cka-study', args, config, runs)
  experiments = study.check(runs)
  settings = _settings(config, runs, experiments)
  study.train_all(runs)

  members = _members(runs, experiments, settings)
  totals = {
    kernel: _pass(members, method, settings.features, experiments[0])
    for kernel, method in settings.methods.items()
  }
  probes = _probes(runs, members, experiments[0], settings.probe)
  if not study.leave():
    return
  data = experiments[0].evaluated.source.name
  report = cka_report.report(members, totals, probes, settings.methods, data)
  report['features'] = settings.features
  (folder / 'cka_study.json').write_text(json.dumps(report, indent=1) + '\n')
  (folder / 'cka_study.npz').write_bytes(cka_report.npz(members, totals))
  pictures = cka_report.pictures(members, totals, report)
  for name, png in pictures.items():
    (folder / name).write_bytes(png)
  for kind, kernel in itertools.product(cka_report.KINDS, KERNELS):
    if (name := f'{kind}_{kernel}.png') not in pictures:  # of a study with other kernels or seeds
      (folder / name).unlink(missing_ok=True)
  sys.stdout.write(cka_report.table(report))
  print(f'cka_study.json, cka_study.npz, {", ".join(pictures)} are in {folder}')


def _runs(config: dict[str, Any], folder: str) -> list[_Run]:
  """All runs: those of one seed before those of the next."""
  if set(config) != set(_FIELDS) or not isinstance(config['models'], dict):
    raise UserError(
      f'the config has the fields {", ".join(_FIELDS)}: begin with configs/cka_study.py'
    )
  if type(config['seeds']) is not int or config['seeds'] < 1 or not config['models']:
    raise UserError('config.seeds must be at least 1, and config.models hold an experiment each')
  runs = []
  for seed in range(config['seeds']):
    for model, shared in config['models'].items():
      own = RunConfig.from_fields(shared)
      own = own.with_fields({'seed': own.seed + seed})
      runs.append(_Run(f'{model}, seed {own.seed}', own, f'{folder}/{model}/{own.seed}', model))
  return runs


def _settings(
  config: dict[str, Any], runs: Sequence[_Run], experiments: Sequence[Experiment]
) -> _Settings:
  """What is done behind the training, checked before it.

  Raises:
    UserError: an unknown kernel or pattern, models that do not see the same images, or too few of
      them in a batch.
  """
  methods = {}
  for kernel in parse_names('config.kernels', config['kernels']):
    if kernel not in KERNELS:
      raise UserError(f'config.kernels are some of {",".join(KERNELS)}, not {config["kernels"]!r}')
    methods[kernel] = Method(kernel, config['bandwidth'] if kernel == 'rbf' else None)
  first, names = experiments[0], {}
  own = _as_read(first)
  for run, checked in zip(runs, experiments, strict=True):
    if (other := _as_read(checked)) != own:
      name = next(name for name, value in own.items() if other[name] != value)
      raise UserError(
        f'{run.name}: its {name} is {other[name]!r}, and {own[name]!r} in {runs[0].name}: the '
        'models of a study are compared on the same images'
      )
    if run.model not in names:
      names[run.model] = layers.choose(
        layers.layer_names(checked.model), parse_names('config.layers', config['layers'])
      )
  layers.check_reduction(config['features'])
  check_images(len(first.evaluated.source), first.evaluated.batch_size)
  fields = build(ProbeConfig, config['probe'], 'probe')
  return _Settings(methods, names, config['features'], fields)


def _as_read(checked: Experiment) -> dict[str, object]:
  """What decides how an image comes to a model."""
  data = checked.evaluated.data
  names = ('eval_recipe', 'eval_crop_fraction', 'permutation', 'permutation_patch')
  return {
    'model.image_size': checked.model.image_size,
    **{f'data.{name}': getattr(data, name) for name in (*names, 'permutation_seed')},
  }


def _members(
  runs: Sequence[_Run], experiments: Sequence[Experiment], settings: _Settings
) -> list[Member]:
  """Every run as it ended and as it began; params on the mesh."""
  mesh, members = experiments[0].evaluated.mesh, []
  for run, checked in zip(runs, experiments, strict=True):
    params = processes.together(functools.partial(checkpoints.load, run.folder))[1]
    start = (
      checked.initial_params()
      if checked.initial_params
      else jax.device_get(models.init(checked.model, jax.random.key(run.config.seed)))
    )
    for is_trained, tree in ((True, params), (False, start)):
      members.append(
        Member(
          model=run.model,
          seed=run.config.seed,
          is_trained=is_trained,
          folder=run.folder,
          data=checked.source.name,
          config=checked.model,
          layers=settings.names[run.model],
          params=meshes.put_replicated(mesh, tree),
        )
      )
  return members


def _pass(members: Sequence[Member], method: Method, how: str, first: Experiment) -> MinibatchCKA:
  """All layers of all members with each other, in one pass over the images."""
  on = first.evaluated
  names = [f'{layer} of {member.name}' for member in members for layer in member.layers]
  total = MinibatchCKA(
    len(names), len(names), **dataclasses.asdict(method), names_x=names, names_y=names
  )
  make = functools.lru_cache(maxsize=None)(
    lambda config, chosen: cka_all_pairs.make_grams_step(config, chosen, on.mesh, method, how=how)
  )
  steps = [make(member.config, tuple(member.layers)) for member in members]
  pairs = cka_all_pairs.make_pairs_step(on.mesh, method)
  log.info('CKA of %d layers of %d models, %s', len(names), len(members), method.kernel)
  batches = pipeline.eval_batches(
    on.source,
    on.data,
    image_size=first.model.image_size,
    batch_size=on.batch_size,
    process=experiment.this_process(),
  )
  for batch in reading(batches, on.batch_size, len(on.source)):
    placed = meshes.put(on.mesh, batch)
    total.add(pairs([s(m.params, placed) for s, m in zip(steps, members, strict=True)]))
  total.result()
  return total


def _probes(
  runs: Sequence[_Run], members: Sequence[Member], first: Experiment, settings: ProbeConfig
) -> dict[str, list[LayerProbe]]:
  """Member's name -> its probes; each is kept in the folder of its run once it is fit."""
  on = first.evaluated
  told = {'train': first.source.name, 'test': on.source.name, **dataclasses.asdict(settings)}
  found = {}
  for number, member in enumerate(members):
    file = user_path(member.folder) / f'probe_{member.state}.json'
    kept = _kept(file, told)
    processes.check_same({f'whether {file} is kept': str(kept is not None)})
    if kept:
      found[member.name] = kept
      continue
    log.info('probe %d of %d: %s', number + 1, len(members), member.name)
    found[member.name] = probe.linear_probe(
      member.config,
      settings,
      member.params,
      first.source,
      on.source,
      on.data,
      on.mesh,
      batch_size=on.batch_size,
      process=experiment.this_process(),
    )
    if processes.is_main():
      rows = [dataclasses.asdict(row) for row in found[member.name]]
      aside = file.parent / f'{file.name}.tmp'
      aside.write_text(json.dumps({'settings': told, 'layers': rows}) + '\n')
      aside.replace(file)
  return found


def _kept(file: epath.Path, settings: dict[str, object]) -> list[LayerProbe] | None:
  """The probes in a file of these settings; None where it is missing, or another, or damaged."""
  try:
    kept = json.loads(file.read_text())
    return [LayerProbe(**row) for row in kept['layers']] if kept['settings'] == settings else None
  except (OSError, ValueError, TypeError, KeyError):
    return None
