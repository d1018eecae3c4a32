"""Study of pruning: loss of a model without some blocks, and recovery by more training."""

import dataclasses
import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from mixer_jax import models
from mixer_jax.analysis import block_scores
from mixer_jax.analysis.block_scores import MEASURES, Images
from mixer_jax.analysis.hsic import check_images
from mixer_jax.bench.latency import latencies
from mixer_jax.errors import StorageError, UserError
from mixer_jax.models.depth import Blocks, with_blocks, without
from mixer_jax.models.parameters import flatten
from mixer_jax.parallel import mesh as meshes
from mixer_jax.parallel import processes
from mixer_jax.paths import user_path
from mixer_jax.runlog.progress import reading
from mixer_jax.runs import checkpoint_labels
from mixer_jax.runs.data_splits import open_split
from mixer_jax.runs.evaluation_setup import EvaluationSetup
from mixer_jax.runs.loaded_model import LoadedModel, load_for_evaluation
from mixer_jax.runs.run_config import RunConfig
from mixer_jax.studies import pruning_plan, pruning_report, study, study_config
from mixer_jax.studies.pruning_plan import Method, PruningConfig
from mixer_jax.studies.result_cache import ResultCache
from mixer_jax.studies.study import Run, StudyReport, Trained

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class PruningStudyConfig:
  """Attributes:
  pruning: which blocks are removed.
  recovery: experiment that trains pruned models on.
  """

  pruning: PruningConfig
  recovery: RunConfig

  def __post_init__(self):
    if self.recovery.init_from:
      raise UserError('config.recovery.init_from is set: the model is the one of --checkpoint')

  @classmethod
  def from_fields(cls, fields: Mapping[str, Any]) -> 'PruningStudyConfig':
    """The config of the fields of configs/prune.py; raises `UserError` for others."""
    names = ('pruning', 'recovery')
    study_config.check_names(fields, names, names, 'configs/prune.py')
    pruning = PruningConfig.from_fields(fields['pruning'])
    return cls(pruning, RunConfig.from_fields(fields['recovery']))


def run(
  config: PruningStudyConfig | Mapping[str, Any],
  workdir: str,
  checkpoint: str,
  *,
  recipe: str | None = None,
  gelu: str | None = None,
  input_range: str | None = None,
  num_heads: int | None = None,
) -> StudyReport | None:
  """Ranks the blocks of a model, removes some, and trains the others on.

  Measurements and runs that are in `workdir` already are reused and resumed. Process 0 writes
  `prune.json` and `prune.png` there, and returns the report; other processes return None.

  Args:
    checkpoint: a workdir, one of its steps, a weights file or a published name.
    recipe, gelu, input_range, num_heads: as in `load_for_evaluation`.
  """
  config = study_config.typed(PruningStudyConfig, config)
  settings, limits = config.pruning, config.recovery.processes
  reading_flags: dict[str, Any] = {
    'recipe': recipe,
    'gelu': gelu,
    'input_range': input_range,
    'num_heads': num_heads,
  }
  study.join('prune', config, workdir, limits, checkpoint=checkpoint, **reading_flags)
  loaded = load_for_evaluation(checkpoint, config.recovery, **reading_flags)
  subject = _subject(config, checkpoint, loaded)
  if settings.recovery_seeds:  # a fault of one run is a fault of all
    blocks = tuple(range(subject.model.num_blocks - settings.counts[-1]))
    study.check([_recovery(subject, config.recovery, workdir, blocks, 0)])
  measured = _measure(subject, settings, user_path(workdir) / 'measured.json')
  runs = [
    _recovery(subject, config.recovery, workdir, blocks, seed)
    for blocks in measured.recovered
    for seed in range(settings.recovery_seeds)
  ]
  trained = study.train_all(study.check(runs))
  return study.finish(
    workdir, 'prune', lambda: report(config, subject, measured, trained), pruning_report
  )


# --- The model and its images.


@dataclasses.dataclass(frozen=True)
class Subject:
  """Model that is pruned, and the images that it is scored and tested on."""

  checkpoint: str
  start: str
  """Checkpoint that recovery starts from: of a run the step that was read, not a later one."""
  model: Any
  params: dict
  """On the host."""
  loss: str
  """Loss that it was trained with: 'softmax' or 'sigmoid'."""
  scored: EvaluationSetup
  tested: EvaluationSetup
  about: Mapping[str, Any]
  """Settings that all measurements depend on."""


def _subject(config: PruningStudyConfig, path: str, loaded: LoadedModel) -> Subject:
  model = config.pruning.checked(loaded.model)
  model = dataclasses.replace(model, dtype=config.recovery.model['dtype'])
  checkpoint, setup = loaded.checkpoint, loaded.setup

  def scored_on() -> EvaluationSetup:
    source = open_split(setup.data, config.pruning.score_split)
    source = checkpoint_labels.align_classes(checkpoint, source)
    check_images(len(source), setup.batch_size)
    return dataclasses.replace(setup, source=source)

  scored = processes.together(scored_on)
  tested = checkpoint_labels.align_classes(checkpoint, setup.source)
  return Subject(
    checkpoint=path,
    start=checkpoint.file if checkpoint.metadata else path,
    model=model,
    params=checkpoint.params,
    loss=loaded.loss,
    scored=scored,
    tested=dataclasses.replace(setup, source=tested),
    about=_about(loaded, model, scored),
  )


def _about(loaded: LoadedModel, model: Any, scored: EvaluationSetup) -> dict[str, Any]:
  """Settings that all measurements depend on, by name."""
  digest = hashlib.sha256()
  for name, array in flatten(loaded.checkpoint.params).items():
    digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
  data = dataclasses.asdict(loaded.setup.data)
  names = ('eval_recipe', 'eval_crop_fraction')
  names += tuple(name for name in data if name.startswith('permutation'))
  return {
    'checkpoint': digest.hexdigest(),
    **{f'model.{name}': value for name, value in dataclasses.asdict(model).items()},
    'evaluation split': loaded.setup.source.describe(),
    'score split': scored.source.describe(),
    'batch': loaded.setup.batch_size,
    # Absent for softmax, as in results of earlier versions.
    **({'loss': loaded.loss} if loaded.loss != 'softmax' else {}),
    **{f'data.{name}': data[name] for name in names},
  }


# --- Measurements, without training.


@dataclasses.dataclass(frozen=True)
class Measured:
  """Results of scoring, evaluation and timing."""

  kept: Mapping[Method, Mapping[int, Blocks]]
  """Method -> number of removed blocks -> blocks that stay."""
  recovered: Sequence[Blocks]
  """Blocks of each model that is trained on, the complete one included where it is."""
  values: ResultCache
  latency: Mapping[int, Mapping[str, float]]
  """Number of removed blocks -> `seconds` of a forward pass and `ratio` to the complete model."""


def _measure(subject: Subject, settings: PruningConfig, path: epath.Path) -> Measured:
  """Scores the blocks, evaluates each pruned model and times each depth."""
  cache = ResultCache(path, subject.about)
  params = meshes.put_replicated(subject.scored.mesh, subject.params)
  complete = tuple(range(subject.model.num_blocks))

  def rank(measure: str, blocks: Blocks) -> list[int]:
    score = lambda: _scores(subject, params, measure, blocks)
    return cache.get_or_measure(_name(measure, blocks), score)['order']

  counts = [count for count in settings.counts if count]
  kept = {
    method: pruning_plan.kept_blocks(method, counts, complete, rank)
    for method in settings.methods()
  }
  pruned = sorted({blocks for of_method in kept.values() for blocks in of_method.values()})
  for name, setup in {'scored': subject.scored, 'tested': subject.tested}.items():
    _evaluate(subject, params, name, setup, [complete, *pruned], cache)
  recovered = [complete, *pruned] if 0 in settings.counts else pruned
  return Measured(kept, recovered, cache, _latencies(subject, settings, cache))


def _images(subject: Subject, setup: EvaluationSetup) -> Images:
  def batches():
    own = setup.batches(subject.model.image_size)
    return reading(own, setup.batch_size, len(setup.source))

  return Images(batches, setup.mesh, subject.loss)


def _scores(subject: Subject, params: dict, measure: str, blocks: Blocks) -> dict[str, list]:
  """Returns `order`, the first to be removed first, and `values` of these blocks alone."""
  log.info('%s of %d blocks', measure, len(blocks))
  pruned, images = with_blocks(subject.model, params, blocks), _images(subject, subject.scored)
  try:
    order, values = block_scores.order_of_removal(measure, *pruned, images)
  except StorageError:
    raise
  except UserError as error:
    if len(blocks) == subject.model.num_blocks:
      raise
    raise UserError(f'{_name("in the model of blocks", blocks)}, renumbered: {error}') from error
  return {'order': [blocks[i] for i in order], 'values': values}


def _evaluate(
  subject: Subject,
  params: dict,
  name: str,
  setup: EvaluationSetup,
  variants: Sequence[Blocks],
  cache: ResultCache,
) -> None:
  """Adds the accuracies of these models, all of which are evaluated in one pass."""
  new = [blocks for blocks in variants if _name(name, blocks) not in cache]
  if new:
    log.info('%d pruned models on %s images', len(new), name)
    found = block_scores.evaluate(subject.model, params, new, _images(subject, setup))
    cache.add({_name(name, blocks): vars(one) for blocks, one in zip(new, found, strict=True)})


def _latencies(
  subject: Subject, settings: PruningConfig, cache: ResultCache
) -> dict[int, dict[str, float]]:
  model, counts = subject.model, sorted({0, *settings.counts})
  about = f'{settings.latency_batch} images, {settings.latency_rounds} rounds'

  def measure() -> list[dict[str, float]]:
    log.info('forward passes of %s', about)
    placed = jax.device_put(subject.params, jax.local_devices()[0])
    pruned = [with_blocks(model, placed, range(model.num_blocks - count)) for count in counts]
    found = latencies(pruned, batch_size=settings.latency_batch, rounds=settings.latency_rounds)
    return [latency._asdict() for latency in found]

  name = f'latency without {",".join(map(str, counts))} blocks, {about}'
  return dict(zip(counts, cache.get_or_measure(name, measure), strict=True))


def _name(kind: str, blocks: Blocks) -> str:
  """Name of a measurement of the model of these blocks."""
  return f'{kind} {",".join(map(str, blocks))}'


# --- Recovery, and the report.


def _recovery(
  subject: Subject, recovery: RunConfig, workdir: str, blocks: Blocks, number: int
) -> Run:
  """Run that trains the model of these blocks on, from seed `number` of those of the study."""
  names, seed = [str(block) for block in blocks], recovery.seed + number
  data = subject.tested.data
  name = f'blocks {",".join(names)}, seed {seed}'
  with study.named(name):
    own = recovery.with_fields(
      {
        'init_from': subject.start,
        'init_blocks': blocks,
        'init_head': 'keep',
        'seed': seed,
        **{
          f'model.{field}': getattr(subject.model, field)
          for field in models.arithmetic(subject.model)
        },
        'data.eval_recipe': data.eval_recipe,
        'data.eval_crop_fraction': data.eval_crop_fraction,
      }
    )
  folder = f'{user_path(workdir) / "recovery"}/{"-".join(names)}/{seed}'
  return Run(name, own, folder, {'blocks': blocks})


def report(
  config: PruningStudyConfig, subject: Subject, measured: Measured, trained: Sequence[Trained]
) -> dict[str, Any]:
  """Content of `prune.json`."""
  model, values = subject.model, measured.values
  complete = tuple(range(model.num_blocks))

  def recovered(blocks: Blocks) -> list[float]:
    own = [one for one in trained if one.run.labels['blocks'] == blocks]
    return [one.result.evaluations[one.result.step]['top1'] for one in own]

  def cost(count: int) -> dict[str, Any]:
    left = dataclasses.replace(model, num_blocks=model.num_blocks - count)
    return {
      'parameters': models.num_params(left),
      'gflop': models.forward_flops(left) / 1e9,
      'latency': measured.latency[count],
    }

  return {
    'checkpoint': subject.checkpoint,
    'variant': models.variant_of(model),
    'model': dataclasses.asdict(model),
    'scored_on': subject.scored.source.name,
    'tested_on': subject.tested.source.name,
    'device': jax.local_devices()[0].device_kind,
    'latency_batch': config.pruning.latency_batch,
    'recovery_steps': config.recovery.total_steps,
    'whole': {
      'top1': values[_name('tested', complete)]['top1'],
      'after_recovery': recovered(complete),
      **cost(0),
    },
    'scores': {
      measure: values[_name(measure, complete)]['values']
      for measure in MEASURES
      if _name(measure, complete) in values
    },
    'rows': [
      {
        **dataclasses.asdict(method),
        'removed': count,
        'blocks_removed': without(complete, blocks),
        'blocks_kept': blocks,
        'after_removal': values[_name('tested', blocks)]['top1'],
        'scored_loss': values[_name('scored', blocks)]['loss'],
        'after_recovery': recovered(blocks),
        **cost(count),
      }
      for method, of_method in measured.kept.items()
      for count, blocks in of_method.items()
    ],
  }
