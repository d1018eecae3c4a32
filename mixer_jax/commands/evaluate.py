"""`mixer-jax evaluate`: accuracy of a checkpoint on a whole split, every image counted once."""

import dataclasses
import json
import sys
import time

from etils import epath
from ml_collections import ConfigDict

from mixer_jax import checkpoints
from mixer_jax.commands import arguments, experiment, screen
from mixer_jax.data import pipeline
from mixer_jax.errors import UserError
from mixer_jax.evaluation import classify
from mixer_jax.models import MixerConfig
from mixer_jax.parallel import mesh as meshes


def main(argv: list[str]) -> None:
  """Prints one line of figures; the same as JSON where asked."""
  parser = arguments.Parser('evaluate', __doc__ or '')
  parser.add_argument('--checkpoint', required=True, help='a workdir, one of its steps, or .npz')
  parser.add_config(required=False, note="; default: that of the checkpoint's run")
  parser.add_argument('--json', metavar='FILE', help='also write the figures there; - is stdout')
  args, overrides = parser.parse(argv)
  terminal = screen.open_screen()
  to_file = bool(args.json) and args.json != '-'
  if to_file and not epath.Path(args.json).parent.is_dir():
    raise UserError(f'no folder for --json={args.json}: make it first')
  model, params, metadata = checkpoints.load_with_metadata(args.checkpoint)
  if args.config:
    config = arguments.load_config(args.config, overrides)
  elif 'config' in metadata:
    config = arguments.with_overrides(ConfigDict(metadata['config']), overrides)
  else:
    raise UserError(f'{args.checkpoint} has no config in it: name one with --config=configs/….py')
  model = _with_chosen(model, config, overrides)
  on = experiment.check_evaluation(config)
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
  if result.undecodable:
    line += f', {result.undecodable} did not decode'
  print(line, file=sys.stderr if args.json == '-' else sys.stdout)
  if to_file:
    epath.Path(args.json).write_text(json.dumps(figures) + '\n')
  elif args.json:
    print(json.dumps(figures))


def _with_chosen(model: MixerConfig, config: ConfigDict, overrides: list[str]) -> MixerConfig:
  """The checkpoint's model, with what of its arithmetic the command line sets."""
  chosen = {}
  for flag in overrides:
    group, _, name = flag.partition('=')[0].removeprefix('--config.').partition('.')
    if group == 'model' and name not in ('dtype', 'gelu'):
      raise UserError(f"config.model.{name} is the checkpoint's: only dtype and gelu can be set")
    if group == 'model':
      chosen[name] = config.model[name]
  return dataclasses.replace(model, **chosen)


def _told(batches, terminal, batch_size: int, size: int):
  """The batches, with a live line of how many images were read."""
  for number, batch in enumerate(batches, 1):
    terminal.live(f'{min(number * batch_size, size):,} of {size:,} images')
    yield batch
