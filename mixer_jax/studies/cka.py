"""Study of similarity: CKA and linear probes of models of several depths, widths and seeds."""

import dataclasses
import functools
import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mixer_jax import checkpoints, models
from mixer_jax.analysis import cka_all_pairs, layers
from mixer_jax.analysis.cka import MinibatchCKA
from mixer_jax.analysis.hsic import KERNELS, Method, check_images
from mixer_jax.errors import UserError
from mixer_jax.evaluation import probe
from mixer_jax.evaluation.probe import LayerProbe, ProbeConfig
from mixer_jax.parallel import mesh as meshes
from mixer_jax.parallel import processes
from mixer_jax.paths import user_path
from mixer_jax.runlog.progress import reading
from mixer_jax.runs import similarity
from mixer_jax.runs.evaluation_setup import this_process
from mixer_jax.runs.experiment import Experiment
from mixer_jax.runs.fields import build, list_text, parse_names
from mixer_jax.runs.run_config import RunConfig
from mixer_jax.studies import cka_comparisons, cka_report, study, study_config
from mixer_jax.studies.cka_comparisons import Member
from mixer_jax.studies.result_cache import CachedRows
from mixer_jax.studies.study import Planned, Run, StudyReport, Trained, Variation

log = logging.getLogger(__name__)

_FIELDS = ('seeds', 'layers', 'features', 'kernels', 'bandwidth', 'probe', 'models')


@dataclasses.dataclass(frozen=True)
class CKAStudyConfig:
  """Attributes:
  seeds: runs of each model.
  layers: patterns of layer names.
  features: rows that CKA compares, one of `layers.REDUCTIONS`.
  methods: kernel -> estimator.
  probe: settings of the linear probes.
  models: name -> experiment.
  """

  seeds: int
  layers: tuple[str, ...]
  features: str
  methods: Mapping[str, Method]
  probe: ProbeConfig
  models: Mapping[str, RunConfig]

  def __post_init__(self):
    layers.check_reduction(self.features)

  @classmethod
  def from_fields(cls, fields: Mapping[str, Any]) -> 'CKAStudyConfig':
    """The config of the fields of configs/cka_study.py; raises `UserError` for others."""
    study_config.check_names(fields, _FIELDS, ('probe', 'models'), 'configs/cka_study.py')
    methods, kernels = {}, fields['kernels']
    for kernel in parse_names('config.kernels', kernels):
      if kernel not in KERNELS:
        raise UserError(
          f'config.kernels are some of {",".join(KERNELS)}, not {list_text(kernels)!r}'
        )
      methods[kernel] = Method(kernel, fields['bandwidth'] if kernel == 'rbf' else None)
    return cls(
      seeds=study_config.seeds(fields['seeds']),
      layers=parse_names('config.layers', fields['layers']),
      features=fields['features'],
      methods=methods,
      probe=build(ProbeConfig, fields['probe'], 'probe'),
      models=study_config.experiments('models', fields['models']),
    )


def run(config: CKAStudyConfig | Mapping[str, Any], workdir: str) -> StudyReport | None:
  """Trains each model from several seeds, then compares all layers of all of them.

  Every model is also compared as it was before training. All see the evaluation images of the
  model that is first by its name. Runs and probes that are in `workdir` already are resumed and
  reused. Process 0 writes `cka_study.json`, `cka_study.npz`, a picture for each kind of
  comparison and kernel, and `probes.png` there, and returns the report; other processes return
  None.
  """
  config = study_config.typed(CKAStudyConfig, config)
  runs = plan(config, workdir)
  study.join('cka-study', config, workdir, runs[0].config.processes)
  planned = study.check(runs)
  names = _check(config, planned)
  trained = study.train_all(planned)
  first = planned[0].experiment
  members = _members(trained, names)
  totals = {
    kernel: _compare(members, method, config.features, first)
    for kernel, method in config.methods.items()
  }
  probes = {member.name: _probe(member, first, config.probe) for member in members}
  result = study.finish(
    workdir,
    'cka_study',
    lambda: report(config, members, totals, probes, _curves(trained), first.evaluated.source.name),
    cka_report,
    lambda: {'cka_study.npz': cka_comparisons.npz(members, totals)},
  )
  if result:  # pictures of an earlier study with other kernels or seeds
    for kind, kernel in itertools.product(cka_report.KINDS, KERNELS):
      if (name := cka_report.picture_name(kind, kernel)) not in result.files:
        (user_path(workdir) / name).unlink(missing_ok=True)
  return result


def plan(config: CKAStudyConfig, workdir: str) -> list[Run]:
  """All runs of the study."""
  vary = lambda model, _: [Variation(model, model)]
  return study.expand(config.models, config.seeds, workdir, vary)


def _check(config: CKAStudyConfig, planned: Sequence[Planned]) -> dict[str, list[str]]:
  """Checks what follows the training; returns the layers of each model.

  Raises:
    UserError: a pattern matches no layer, models do not see the same images, or a batch has too
      few of them.
  """
  first, names = planned[0], {}
  own = _image_settings(first.experiment)
  for one in planned:
    if (other := _image_settings(one.experiment)) != own:
      name = next(name for name, value in own.items() if other[name] != value)
      raise UserError(
        f'{one.run.name}: its {name} is {other[name]!r}, and {own[name]!r} in {first.run.name}: '
        'the models of a study are compared on the same images'
      )
    if (model := one.run.labels['model']) not in names:
      names[model] = layers.choose(layers.layer_names(one.experiment.model), config.layers)
  evaluated = first.experiment.evaluated
  check_images(len(evaluated.source), evaluated.batch_size)
  return names


def _image_settings(checked: Experiment) -> dict[str, object]:
  """Settings that decide what a model sees of an image."""
  data = checked.evaluated.data
  names = ('eval_recipe', 'eval_crop_fraction', 'permutation', 'permutation_patch')
  return {
    'model.image_size': checked.model.image_size,
    **{f'data.{name}': getattr(data, name) for name in (*names, 'permutation_seed')},
  }


def _members(trained: Sequence[Trained], names: Mapping[str, list[str]]) -> list[Member]:
  """Every run at its end and at its start, params on the mesh."""
  mesh, members = trained[0].experiment.evaluated.mesh, []
  for one in trained:
    own, model = one.experiment, one.run.labels['model']
    params = processes.together(functools.partial(checkpoints.load, one.run.folder))[1]
    start = (
      own.initial_params()
      if own.initial_params
      else jax.device_get(models.init(own.model, jax.random.key(one.run.config.seed)))
    )
    for is_trained, tree in ((True, params), (False, start)):
      members.append(
        Member(
          model=model,
          seed=one.run.config.seed,
          is_trained=is_trained,
          folder=one.run.folder,
          data=own.source.name,
          config=own.model,
          layers=names[model],
          params=meshes.put_replicated(mesh, tree),
        )
      )
  return members


def _compare(
  members: Sequence[Member], method: Method, features: str, first: Experiment
) -> MinibatchCKA:
  """CKA of all layers of all members with each other, in one pass over the images."""
  setup = first.evaluated
  names = [f'{layer} of {member.name}' for member in members for layer in member.layers]
  total = MinibatchCKA(
    len(names), len(names), **dataclasses.asdict(method), names_x=names, names_y=names
  )

  @functools.cache
  def make(config: models.ModelConfig, chosen: tuple[str, ...]) -> cka_all_pairs.GramsStep:
    return cka_all_pairs.make_grams_step(config, chosen, setup.mesh, method, how=features)

  steps = [make(member.config, tuple(member.layers)) for member in members]
  pairs = cka_all_pairs.make_pairs_step(setup.mesh, method)
  log.info('CKA of %d layers of %d models, %s', len(names), len(members), method.kernel)
  batches = setup.batches(first.model.image_size)
  for batch in reading(batches, setup.batch_size, len(setup.source)):
    placed = meshes.put(setup.mesh, batch)
    total.add(pairs([s(m.params, placed) for s, m in zip(steps, members, strict=True)]))
  total.result()
  return total


def _probe(member: Member, first: Experiment, settings: ProbeConfig) -> list[LayerProbe]:
  """Linear probes of a member; kept in the folder of its run."""
  evaluated = first.evaluated
  path = user_path(member.folder) / f'probe_{member.state}.json'
  about = {
    'train': first.source.name,
    'test': evaluated.source.name,
    **dataclasses.asdict(settings),
  }

  def measure() -> list[LayerProbe]:
    log.info('probes of %s', member.name)
    return probe.linear_probe(
      member.config,
      settings,
      member.params,
      first.source,
      evaluated.source,
      evaluated.data,
      evaluated.mesh,
      batch_size=evaluated.batch_size,
      process=this_process(evaluated.mesh),
      progress=reading,
    )

  return CachedRows(path, about, LayerProbe).get_or_measure(measure)


def _curves(trained: Sequence[Trained]) -> dict[str, Mapping[int, float]]:
  """Name of a run -> step -> top-1."""
  return {
    f'{one.run.labels["model"]}/{one.run.config.seed}': one.result.curve('top1') for one in trained
  }


def report(
  config: CKAStudyConfig,
  members: Sequence[Member],
  totals: Mapping[str, MinibatchCKA],
  probes: Mapping[str, list[LayerProbe]],
  curves: Mapping[str, Mapping[int, float]],
  data: str,
) -> dict[str, Any]:
  """Content of `cka_study.json`: runs, probes, and the comparisons of each kernel."""
  values: dict[str, Any] = {
    'data': data,
    'features': config.features,
    'identified': [],
    'probes': {},
    'runs': {},
    'kernels': {},
  }
  for member in members:
    tops = {row.layer: row.top1 for row in probes[member.name]}
    values['probes'].setdefault(member.state, {})[member.run] = tops
    if member.is_trained:
      curve = curves[member.run]
      values['runs'][member.run] = {
        'model': member.model,
        'seed': member.seed,
        'variant': models.variant_of(member.config),
        'parameters': models.num_params(member.config),
        'trained_on': member.data,
        'steps': max(curve),
        'top1': curve[max(curve)],
      }
  for kernel, total in totals.items():
    values |= {'images': total.images, 'batches': total.batches}
    compared = cka_comparisons.comparisons(members, total)
    values['kernels'][kernel] = {
      'method': str(config.methods[kernel]),
      'noise': similarity.describe_noise(total.standard_error(), total.batches),
      'comparisons': compared,
    }
    for model, names in {member.model: member.layers for member in members}.items():
      row = {
        'kernel': kernel,
        'model': model,
        'trained': _mean_accuracy(compared, 'seeds', model),
        'untrained': _mean_accuracy(compared, 'untrained_seeds', model),
        'chance': 100 / len(names),
      }
      values['identified'].append(row)
  return values


def _mean_accuracy(comparisons: Sequence[Mapping[str, Any]], kind: str, model: str) -> float | None:
  """Mean over pairs of seeds and both ways; None of one seed."""
  own = [one for one in comparisons if one['kind'] == kind and one['x'].startswith(f'{model}/')]
  found = [one[way]['accuracy'] for one in own for way in ('there', 'back')]
  return float(np.mean(found)) if found else None
