"""`mixer-jax cka`: how alike the layers of a checkpoint are, or those of two, on a data set."""

import argparse
import dataclasses
import logging

import jax
import numpy as np

from mixer_jax import models
from mixer_jax.analysis import cka, layers
from mixer_jax.analysis.hsic import ESTIMATORS, KERNELS, LEAST_IMAGES, Method
from mixer_jax.commands import arguments, experiment, screen, subject
from mixer_jax.commands.subject import Subject
from mixer_jax.data import pipeline
from mixer_jax.errors import UserError
from mixer_jax.parallel import mesh as meshes
from mixer_jax.parallel import processes
from mixer_jax.paths import user_path
from mixer_jax.reporting import heatmaps
from mixer_jax.reporting.progress import reading
from mixer_jax.reporting.terminal import Terminal

log = logging.getLogger(__name__)

_LAYERS = 'stem,block_*,pre_logits'


def main(argv: list[str]) -> None:
  """One pass over the evaluation split; writes OUTPUT.npz and OUTPUT.png."""
  parser = arguments.Parser('cka', __doc__ or '')
  parser.add_argument('--checkpoint', required=True, help=arguments.CHECKPOINT)
  parser.add_argument('--other', help='compare with the layers of this one; default: with itself')
  parser.add_config(
    required=False,
    example='configs/evaluate.py:imagenet2012',
    note="; default: that of the checkpoint's run",
  )
  parser.add_reading()
  parser.add_argument(
    '--layers',
    default=_LAYERS,
    metavar='PATTERNS',
    help=f"of `features`, as in 'block_*/channel_mixing/hidden,pre_logits' ({_LAYERS})",
  )
  parser.add_argument('--features', choices=layers.REDUCTIONS, default='flatten', help='(flatten)')
  parser.add_argument('--kernel', choices=KERNELS, default='linear', help='(linear)')
  parser.add_argument(
    '--bandwidth', type=float, help='of rbf: share of the median distance in each minibatch'
  )
  parser.add_argument('--sigma', type=float, help='of rbf, instead: the width itself')
  parser.add_argument('--estimator', choices=ESTIMATORS, default='unbiased', help='(unbiased)')
  parser.add_argument('--output', default='cka', help='OUTPUT.npz and OUTPUT.png are written (cka)')
  args, overrides = parser.parse(argv)
  terminal = screen.open_screen()
  arguments.check_targets({'output': f'{args.output}.npz'})
  method = Method(args.kernel, args.bandwidth, args.sigma, args.estimator)
  x = subject.begin('cka', args, overrides, terminal)
  y = args.other and subject.look_at(args.other, args, x.named, overrides, x.on.source)
  check_images(x.on)

  names_x = layers.choose(layers.layer_names(x.model), args.layers.split(','))
  names_y = layers.choose(layers.layer_names(y.model), args.layers.split(',')) if y else names_x
  total = cka.MinibatchCKA(
    len(names_x), len(names_y), **dataclasses.asdict(method), names_x=names_x, names_y=names_y
  )
  is_first = experiment.tells()
  _pass(x, y, names_x, names_y, method, args, total, terminal)
  result, error = total.result(), total.standard_error()
  images = total.images
  processes.leave_together()
  if not is_first:
    return
  how = ', '.join(f'{k} {v}' for k, v in dataclasses.asdict(method).items() if v is not None)
  np.savez(
    user_path(f'{args.output}.npz'),
    cka=result,
    standard_error=error,
    names_x=names_x,
    names_y=names_y,
    images=images,
    data=x.on.source.name,
    checkpoints=[args.checkpoint, args.other or args.checkpoint],
    method=how,
    features=args.features,
  )
  noise = 'one batch, so no standard error'
  if np.isfinite(error).any():
    noise = f'standard error over {total.batches} batches {np.nanmedian(error):.4f} (median)'
  title = f'CKA ({how}) on {images:,} images of {x.on.source.name}; {noise}'
  png = heatmaps.heatmap(
    result, names_x, names_y, title, (args.checkpoint, args.other or args.checkpoint)
  )
  user_path(f'{args.output}.png').write_bytes(png)
  print(title)
  print(f'{args.output}.npz, {args.output}.png: {len(names_x)} × {len(names_y)} layers')


def check_images(on: experiment.Evaluated) -> None:
  """Raises `UserError` unless every batch has as many images as the estimator needs."""
  size, batch = len(on.source), on.batch_size
  left = size % batch
  if size < LEAST_IMAGES or 0 < left < LEAST_IMAGES:
    raise UserError(
      f'{size} images in batches of {batch} leave {left} for the last one, and the estimator needs '
      f'{LEAST_IMAGES}: set another --config.eval_batch_size'
    )


def _pass(
  x: Subject,
  y: Subject | None,
  names_x: list[str],
  names_y: list[str],
  method: Method,
  args: argparse.Namespace,
  total: cka.MinibatchCKA,
  terminal: Terminal,
) -> None:
  """Adds every batch of the split to `total`."""
  mesh = x.on.mesh
  step = cka.make_cka_step(
    x.model,
    names_x,
    mesh,
    method,
    config_y=y.model if y else None,
    names_y=names_y if y else None,
    how=args.features,
  )
  params = [meshes.put_replicated(mesh, seen.checkpoint.params) for seen in (x, y) if seen]
  batches = reading(_batches(x), terminal, x.on.batch_size, len(x.on.source))
  try:
    if y is None:
      for batch in batches:
        total.add(step(params[0], meshes.put(mesh, batch)))
    else:  # each model's images by its own recipe, at its own size
      for batch, other in zip(batches, _batches(y), strict=True):
        total.add(step(params[0], meshes.put(mesh, batch), params[1], meshes.put(mesh, other)))
  finally:
    terminal.finish()
  jax.block_until_ready(params)


def _batches(seen: Subject):
  name = models.variant_of(seen.model)
  log.info('%s on %d images of %s', name, len(seen.on.source), seen.on.source.name)
  return pipeline.eval_batches(
    seen.on.source,
    seen.on.data,
    image_size=seen.model.image_size,
    batch_size=seen.on.batch_size,
    process=experiment.this_process(),
  )
