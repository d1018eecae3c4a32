"""`mixer-jax prune`: what a Mixer loses without some blocks, and what training brings back."""

import dataclasses
import functools
import hashlib
import json
import logging
import sys
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mixer_jax import models
from mixer_jax.analysis import block_scores
from mixer_jax.analysis.block_scores import MEASURES, Accuracy, Images
from mixer_jax.bench.latency import latencies
from mixer_jax.data import pipeline
from mixer_jax.data.catalog import open_source
from mixer_jax.errors import UserError
from mixer_jax.models.depth import Blocks, with_blocks, without
from mixer_jax.models.parameters import flatten
from mixer_jax.parallel import mesh as meshes
from mixer_jax.parallel import processes
from mixer_jax.paths import user_path
from mixer_jax.runlog import console
from mixer_jax.runlog.progress import reading
from mixer_jax.runs import checkpoint_labels, config_file, experiment, loaded_model
from mixer_jax.runs.loaded_model import Subject
from mixer_jax.runs.similarity import check_images
from mixer_jax.studies import pruning_plan, study
from mixer_jax.studies import pruning_report as reports
from mixer_jax.studies.pruning_plan import PruningConfig
from mixer_jax.studies.result_cache import Memo
from mixer_jax.studies.study import curve

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Looked:
  """A Mixer on the images of one split."""

  model: models.MixerConfig
  params: dict
  """On the mesh."""
  images: Images

  def evaluate(self, variants: list[Blocks]) -> list[Accuracy]:
    return block_scores.evaluate(self.model, self.params, variants, self.images)

  def scores(self, measure: str, blocks: Blocks) -> dict[str, list]:
    """`order`, the first to go first, and `values` of these blocks in a Mixer of them alone."""
    log.info('%s of %d blocks', measure, len(blocks))
    mixer = with_blocks(self.model, self.params, blocks)
    try:
      order, values = block_scores.order_of_removal(measure, *mixer, self.images)
    except UserError as error:
      if len(blocks) == self.model.num_blocks:
        raise
      raise UserError(f'{_name("in the Mixer of blocks", blocks)}, renumbered: {error}') from error
    return {'order': [blocks[i] for i in order], 'values': values}


def main(argv: list[str]) -> None:
  """Ranks the blocks, leaves some out, and trains what is left; a table and its picture.

  The same command again goes on where it stopped. WORKDIR holds `prune.json`, `prune.png`,
  `measured.json`, and in `recovery` a run for each pruned Mixer.
  """
  parser = config_file.Parser('prune', __doc__ or '')
  parser.add_argument('--checkpoint', required=True, help=config_file.CHECKPOINT)
  parser.add_config(
    required=True,
    example='configs/prune.py:digits',
    note=', as in --config.recovery.total_steps=100',
  )
  parser.add_reading()
  parser.add_argument('--workdir', required=True, help='folder of the study, local or gs://…')
  args, overrides = parser.parse(argv)
  console.setup_console()
  config = config_file.load_config(args.config, overrides)
  folder = user_path(args.workdir)
  settings = _settings(config)
  study.join('prune', args, config, [study.Run('recovery', config.recovery, str(folder))])
  seen = loaded_model.look_at(args.checkpoint, args, config.recovery, [], None)
  model = settings.checked(seen.model)
  model = dataclasses.replace(model, dtype=config.recovery.model.dtype)
  scored = processes.together(lambda: _scored_on(seen, settings.score_split))
  start = _start(args.checkpoint, seen)
  run_of = functools.partial(_run, model, seen.on, start, config.recovery, str(folder / 'recovery'))
  if settings.recovery_seeds:  # all are refused for what one is
    study.check([run_of(tuple(range(model.num_blocks - settings.counts[-1])), 0)])

  memo = Memo(folder / 'measured.json', _about(seen, model, scored))
  params = meshes.put_replicated(seen.on.mesh, seen.checkpoint.params)
  looked = {
    name: _Looked(model, params, Images(_reading(seen, on), on.mesh))
    for name, on in {'scored': scored, 'tested': _tested_on(seen)}.items()
  }
  whole = tuple(range(model.num_blocks))
  rank = lambda measure, blocks: memo.get(
    _name(measure, blocks), lambda: looked['scored'].scores(measure, blocks)
  )['order']
  kept = {
    method: pruning_plan.kept_blocks(method, [n for n in settings.counts if n], whole, rank)
    for method in settings.methods()
  }
  pruned = {blocks for of_method in kept.values() for blocks in of_method.values()}
  variants = [*([whole] if 0 in settings.counts else []), *sorted(pruned)]
  for name, look in looked.items():
    _evaluate(look, [whole, *variants], name, memo)
  latency = _latencies(model, seen.checkpoint.params, settings, memo)

  seeds = range(settings.recovery_seeds)
  runs = {(blocks, seed): run_of(blocks, seed) for blocks in variants for seed in seeds}
  for run in runs.values():  # one by one: each check reads the checkpoint, and lets it go
    study.check([run])
  study.train_all(list(runs.values()))
  if not study.leave():
    return
  report = {
    'checkpoint': args.checkpoint,
    'variant': models.variant_of(model),
    'model': dataclasses.asdict(model),
    'scored_on': scored.source.name,
    'tested_on': seen.on.source.name,
    'device': jax.local_devices()[0].device_kind,
    'latency_batch': settings.latency_batch,
    'recovery_steps': config.recovery.total_steps,
    'whole': {
      'top1': memo[_name('tested', whole)]['top1'],
      'after_recovery': _recovered(runs, whole),
      **_cost(model, 0, latency),
    },
    'scores': {
      measure: memo[_name(measure, whole)]['values']
      for measure in MEASURES
      if _name(measure, whole) in memo
    },
    'rows': [
      {
        **dataclasses.asdict(method),
        'removed': count,
        'blocks_removed': without(whole, blocks),
        'blocks_kept': blocks,
        'after_removal': memo[_name('tested', blocks)]['top1'],
        'scored_loss': memo[_name('scored', blocks)]['loss'],
        'after_recovery': _recovered(runs, blocks),
        **_cost(model, count, latency),
      }
      for method, of_method in kept.items()
      for count, blocks in of_method.items()
    ],
  }
  (folder / 'prune.json').write_text(json.dumps(report, indent=2) + '\n')
  (folder / 'prune.png').write_bytes(reports.picture(report))
  sys.stdout.write(reports.table(report) + reports.verdict(report))
  print(f'prune.json and prune.png are in {folder}')


def _settings(config: ConfigDict) -> PruningConfig:
  if set(config) != {'pruning', 'recovery'} or not isinstance(config.recovery, ConfigDict):
    raise UserError('the config has pruning and recovery: begin with configs/prune.py')
  settings = experiment.build(PruningConfig, config.pruning, 'pruning')
  experiment.check_fields(config.recovery)
  if config.recovery.init_from:
    raise UserError('config.recovery.init_from is set: the Mixer is the one of --checkpoint')
  return settings


def _tested_on(seen: Subject) -> experiment.Evaluated:
  source = checkpoint_labels.in_order_of(seen.checkpoint, seen.on.source)
  return dataclasses.replace(seen.on, source=source)


def _scored_on(seen: Subject, split: str) -> experiment.Evaluated:
  source = open_source(seen.on.data.name, split, seen.on.data.data_dir)
  on = dataclasses.replace(seen.on, source=checkpoint_labels.in_order_of(seen.checkpoint, source))
  check_images(len(on.source), on.batch_size)
  return on


def _about(
  seen: Subject, model: models.MixerConfig, scored: experiment.Evaluated
) -> dict[str, Any]:
  """What everything that is measured holds for."""
  digest = hashlib.sha256()
  for name, array in flatten(seen.checkpoint.params).items():
    digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
  data = dataclasses.asdict(seen.on.data)
  names = ('eval_recipe', 'eval_crop_fraction')
  names += tuple(name for name in data if name.startswith('permutation'))
  return {
    'checkpoint': digest.hexdigest(),
    **{f'model.{name}': value for name, value in dataclasses.asdict(model).items()},
    'evaluation split': seen.on.source.describe(),
    'score split': scored.source.describe(),
    'batch': seen.on.batch_size,
    **{f'data.{name}': data[name] for name in names},
  }


def _reading(seen: Subject, on: experiment.Evaluated):
  def batches():
    every = pipeline.eval_batches(
      on.source,
      on.data,
      image_size=seen.model.image_size,
      batch_size=on.batch_size,
      process=experiment.this_process(),
    )
    return reading(every, on.batch_size, len(on.source))

  return batches


def _start(path: str, seen: Subject) -> str:
  """What recovery begins from: of a run the step that was read, and not a later one."""
  step = user_path(path) / 'checkpoints' / str(seen.checkpoint.metadata.get('step'))
  return str(step) if not seen.checkpoint.published and step.exists() else path


def _run(
  model: models.MixerConfig,
  on: experiment.Evaluated,
  start: str,
  recovery: ConfigDict,
  folder: str,
  blocks: Blocks,
  seed: int,
) -> study.Run:
  """The recovery of the Mixer of these blocks."""
  own = recovery.copy_and_resolve_references()
  text = ','.join(map(str, blocks))
  with own.unlocked():
    own.init_from, own.init_blocks, own.init_head = start, text, 'keep'
    own.seed += seed
    own.model.gelu, own.model.input_range = model.gelu, model.input_range
    own.data.eval_recipe = on.data.eval_recipe
    own.data.eval_crop_fraction = on.data.eval_crop_fraction
  place = f'{folder}/{text.replace(",", "-")}/{own.seed}'
  return study.Run(f'blocks {text}, seed {own.seed}', own, place)


def _evaluate(looked: _Looked, variants: list[Blocks], name: str, memo: Memo) -> None:
  """Keeps the accuracy of these Mixers on these images, measured in one pass."""
  new = [blocks for blocks in dict.fromkeys(variants) if _name(name, blocks) not in memo]
  if new:
    log.info('%d pruned Mixers on %s images', len(new), name)
    found = map(dataclasses.asdict, looked.evaluate(new))
    memo.keep({_name(name, blocks): value for blocks, value in zip(new, found, strict=True)})


def _name(what: str, blocks: Blocks) -> str:
  return f'{what} {",".join(map(str, blocks))}'


def _latencies(
  model: models.MixerConfig, params: dict, settings: PruningConfig, memo: Memo
) -> dict[int, dict[str, float]]:
  """By number of blocks that go, `seconds` of a forward pass and `ratio` to the whole Mixer's."""
  counts = sorted({0, *settings.counts})
  about = f'{settings.latency_batch} images, {settings.latency_rounds} rounds'

  def measure() -> list[dict[str, float]]:
    log.info('forward passes of %s', about)
    placed = jax.device_put(params, jax.local_devices()[0])
    mixers = [with_blocks(model, placed, range(model.num_blocks - count)) for count in counts]
    found = latencies(mixers, batch_size=settings.latency_batch, rounds=settings.latency_rounds)
    return [latency._asdict() for latency in found]

  name = f'latency without {",".join(map(str, counts))} blocks, {about}'
  return dict(zip(counts, memo.get(name, measure), strict=True))


def _cost(
  model: models.MixerConfig, count: int, latency: dict[int, dict[str, float]]
) -> dict[str, Any]:
  """Of a Mixer without so many blocks."""
  left = dataclasses.replace(model, num_blocks=model.num_blocks - count)
  return {
    'parameters': models.num_params(left),
    'gflop': models.forward_flops(left) / 1e9,
    'latency': latency[count],
  }


def _recovered(runs: dict[tuple[Blocks, int], study.Run], blocks: Blocks) -> list[float]:
  """Top-1 at the end of each recovery of the Mixer of these blocks."""
  own = [run for (of, _), run in runs.items() if of == blocks]
  return [curve(run.folder)[run.config.total_steps] for run in own]
