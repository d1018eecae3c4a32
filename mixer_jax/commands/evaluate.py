"""`mixer-jax evaluate`: accuracy of a checkpoint on a whole split, every image counted once."""

import json
import sys
import time

from etils import epath

from mixer_jax import checkpoints
from mixer_jax.commands import arguments, experiment, screen, workdir
from mixer_jax.data import pipeline
from mixer_jax.errors import UserError
from mixer_jax.evaluation import classify
from mixer_jax.parallel import mesh as meshes


def main(argv: list[str]) -> None:
  """Prints one line of figures; the same as JSON where asked."""
  parser = arguments.Parser('evaluate', __doc__ or '')
  parser.add_argument('--checkpoint', required=True, help='a workdir, one of its steps, or .npz')
  parser.add_config(required=False, note="; default: that of the checkpoint's workdir")
  parser.add_argument('--json', metavar='FILE', help='also write the figures there; - is stdout')
  args, overrides = parser.parse(argv)
  terminal = screen.open_screen()
  on = experiment.check_evaluation(_config(args.config, args.checkpoint, overrides))
  model, params, metadata = checkpoints.load_with_metadata(args.checkpoint)
  experiment.check_classes(model, on.source)

  begun = time.monotonic()
  batches = pipeline.eval_batches(
    on.source,
    on.data,
    image_size=model.image_size,
    batch_size=on.batch_size,
    process=experiment.this_process(),
  )
  result = classify.evaluate(
    classify.make_eval_step(model, on.mesh),
    meshes.put_replicated(on.mesh, params),
    _told(batches, terminal, on.batch_size, len(on.source)),
    on.mesh,
    size=len(on.source),
  )
  terminal.finish()
  seconds = time.monotonic() - begun
  figures = {
    'checkpoint': args.checkpoint,
    'step': metadata.get('step'),
    'data': on.source.name,
    'image_size': model.image_size,
    'eval_resize': on.data.eval_resize,
    'eval_crop_fraction': on.data.eval_crop_fraction,
    **result.numbers(),
    'seconds': round(seconds, 3),
    'images_per_second': round(result.examples / seconds, 1),
  }
  line = (
    f'top-1 {result.top1:.2f} %  top-5 {result.top5:.2f} %  loss {result.loss:.4f}  '
    f'{result.examples} images of {on.source.name} at {model.image_size} px'
  )
  print(line + (f', {result.undecodable} did not decode' if result.undecodable else ''))
  if args.json == '-':
    json.dump(figures, sys.stdout)
    print()
  elif args.json:
    epath.Path(args.json).write_text(json.dumps(figures) + '\n')


def _config(spec: str | None, checkpoint: str, overrides: list[str]):
  from ml_collections import ConfigDict

  if spec:
    return arguments.load_config(spec, overrides)
  path = epath.Path(checkpoint)
  for folder in (path, *path.parents[:2]):
    stored = workdir.stored_run(folder)
    if stored:
      return arguments.with_overrides(ConfigDict(stored['config']), overrides)
  raise UserError(f'{checkpoint} has no config of its own: name one with --config=configs/….py')


def _told(batches, terminal, batch_size: int, size: int):
  """The batches, with a live line of how many images were read."""
  for number, batch in enumerate(batches, 1):
    terminal.live(f'{min(number * batch_size, size):,} of {size:,} images')
    yield batch
