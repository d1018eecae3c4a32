"""`mixer-jax evaluate`: accuracy of a checkpoint on a whole split, every image counted once."""

import csv
import dataclasses
import io
import json
import logging
import sys
from typing import Any

from mixer_jax import models
from mixer_jax.checkpoints import Checkpoint
from mixer_jax.commands import flags
from mixer_jax.data import pipeline, recipes
from mixer_jax.errors import UserError
from mixer_jax.evaluation import classify
from mixer_jax.parallel import mesh as meshes
from mixer_jax.parallel import processes
from mixer_jax.runlog import console
from mixer_jax.runlog.progress import reading
from mixer_jax.runs import checkpoint_labels, experiment, loaded_model
from mixer_jax.runs.evaluation_setup import EvaluationSetup

log = logging.getLogger(__name__)


def main(argv: list[str]) -> None:
  """Prints one line of figures, and the published ones beside them; more where asked."""
  parser = flags.Parser('evaluate', __doc__ or '')
  parser.add_argument('--checkpoint', required=True, help=flags.CHECKPOINT)
  parser.add_config(
    required=False,
    example='configs/evaluate.py:imagenet2012 or configs/evaluate.py:folder:DIR',
    note="; default: that of the checkpoint's run",
  )
  parser.add_reading()
  parser.add_argument('--json', metavar='FILE', help='also write the figures there; - is stdout')
  parser.add_argument(
    '--per-class', metavar='FILE', help='also write a CSV row a class, worst first; - is stdout'
  )
  args, overrides = parser.parse(argv)
  console.setup_console()
  flags.check_targets({'json': args.json, 'per-class': args.per_class})
  seen = loaded_model.begin('evaluate', args, overrides)
  checkpoint, model, on = seen.checkpoint, seen.model, seen.on
  on = dataclasses.replace(on, source=checkpoint_labels.in_order_of(checkpoint, on.source))
  recipe = recipes.describe(
    on.data.eval_recipe, model.image_size, on.data.eval_crop_fraction, model.input_range
  )
  how = f'{recipe}; {models.activation(model)}, {model.dtype}'
  size, name = f'{len(on.source):,}', models.variant_of(model)
  log.info('%s (%s) on %s images of %s', args.checkpoint, name, size, on.source.name)
  log.info('%s', how)

  is_first = processes.is_main()
  result = _evaluate(model, checkpoint.params, on)
  if not result.examples:
    raise UserError(f'none of the {size} images of {on.source.name} decodes')
  processes.leave_together()  # what is left to do, one process does alone
  if not is_first:
    return
  published = _published(checkpoint, on, model.image_size)
  summary = sys.stderr if '-' in (args.json, args.per_class) else sys.stdout
  print(_line(result, on, model), file=summary)
  print(f'by {how}; {args.checkpoint}', file=summary)
  for key, value in published.items():
    line = f'published {_TITLES[key]} {value:.2f} %: {getattr(result, key) - value:+.2f} here'
    own = checkpoint_labels.recipe_of(checkpoint)
    if own != (on.data.eval_recipe, on.data.eval_crop_fraction):
      line += f', by another recipe than its {own[0]} with crop {own[1]}'
    print(line, file=summary)
  if args.per_class:
    flags.write(args.per_class, _table(result, checkpoint_labels.spoken(on.source.classes)))
  figures = {
    'checkpoint': args.checkpoint,
    'file': checkpoint.file,
    'variant': name,
    'step': checkpoint.metadata.get('step'),
    'data': on.source.name,
    'image_size': model.image_size,
    'recipe': recipe,
    'eval_recipe': on.data.eval_recipe,
    'eval_crop_fraction': on.data.eval_crop_fraction,
    'gelu': getattr(model, 'gelu', None),
    'input_range': model.input_range,
    'dtype': model.dtype,
    **result.numbers(),
    'published': published,
  }
  flags.write(args.json, json.dumps(figures) + '\n')


_TITLES = {'top1': 'top-1', 'real': 'ReaL'}


def _evaluate(model: models.ModelConfig, params: dict, on: EvaluationSetup) -> classify.Evaluation:
  batches = pipeline.eval_batches(
    on.source,
    on.data,
    image_size=model.image_size,
    batch_size=on.batch_size,
    process=experiment.this_process(),
  )
  return classify.evaluate(
    classify.make_eval_step(model, on.mesh),
    meshes.put_replicated(on.mesh, params),
    reading(batches, on.batch_size, len(on.source)),
    on.mesh,
    size=len(on.source),
  )


def _published(checkpoint: Checkpoint, on: EvaluationSetup, image_size: int) -> dict[str, Any]:
  """The published figures that these ones are to be compared with."""
  entry = checkpoint.published
  whole = ('imagenet2012/validation', 'imagenet2012_real/validation')
  same = on.source.name in whole or (
    # The validation set as a folder: nothing else has so many images of these classes.
    len(on.source) == 50_000 and on.source.classes == checkpoint_labels.classes_of(checkpoint)
  )
  if entry is None or not same or image_size != entry.config.image_size:
    return {}
  real = entry.real if on.source.accepted else None
  return {k: v for k, v in {'top1': entry.top1, 'real': real}.items() if v is not None}


def _line(result: classify.Evaluation, on: EvaluationSetup, model: models.ModelConfig) -> str:
  line = f'top-1 {result.top1:.2f} %  top-5 {result.top5:.2f} %  loss {result.loss:.4f}  '
  if result.real is not None:
    line += f'ReaL {result.real:.2f} % of {result.real_examples}  '
  line += f'{result.examples} images of {on.source.name} at {model.image_size} px'
  line += f'  {result.images_per_second:,.1f} images/s'
  return line + (f', {result.undecodable} did not decode' if result.undecodable else '')


def _table(result: classify.Evaluation, classes) -> str:
  text = io.StringIO()
  writer = csv.writer(text, lineterminator='\n')
  writer.writerow(('class', 'name', 'images', 'top1', 'most_confused_with', 'times'))
  for row in classify.per_class(result):
    confused = '' if row.confused is None else classes[row.confused]
    top1 = f'{row.top1:.2f}'
    writer.writerow((row.label, classes[row.label], row.images, top1, confused, row.times))
  return text.getvalue()
