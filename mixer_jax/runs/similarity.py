"""CKA between the layers of one checkpoint or two: flags, the pass over a split, and its files."""

import argparse
import dataclasses
import io
import logging

import numpy as np

from mixer_jax import models
from mixer_jax.analysis import cka, layers
from mixer_jax.analysis.hsic import ESTIMATORS, KERNELS, LEAST_IMAGES, Method
from mixer_jax.commands import flags
from mixer_jax.data import pipeline
from mixer_jax.errors import UserError
from mixer_jax.parallel import mesh as meshes
from mixer_jax.paths import user_path
from mixer_jax.runlog.progress import reading
from mixer_jax.runs import experiment
from mixer_jax.runs.loaded_model import Subject

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Likeness:
  """How alike layers are, and what that was measured on."""

  names_x: list[str]
  names_y: list[str]
  cka: np.ndarray
  """(n_x, n_y)"""
  standard_error: np.ndarray
  """Over batches; NaN after one."""
  images: int
  batches: int
  data: str
  checkpoints: tuple[str, str]
  method: str
  features: str

  def title(self) -> str:
    """The method, the number of images and the noise, in words."""
    return f'CKA ({self.method}) on {self.images:,} images of {self.data}; ' + noise_of(
      self.standard_error, self.batches
    )

  def npz(self, **more) -> bytes:
    """All of it, and `more` arrays, as an .npz file; `cka` and `standard_error` by names."""
    return npz_of(**{field.name: getattr(self, field.name) for field in dataclasses.fields(self)},
                  **more)  # fmt: skip


def add_flags(parser: flags.Parser, *, layers_default: str, output: str) -> None:
  """Which layers, how CKA is estimated, and where files go."""
  parser.add_argument('--checkpoint', required=True, help=flags.CHECKPOINT)
  parser.add_config(
    required=False,
    example='configs/evaluate.py:imagenet2012',
    note="; default: that of the checkpoint's run",
  )
  parser.add_reading()
  parser.add_argument(
    '--layers',
    default=layers_default,
    metavar='PATTERNS',
    help=f"of `features`, as in 'block_*/channel_mixing/hidden,pre_logits' ({layers_default})",
  )
  parser.add_argument('--features', choices=layers.REDUCTIONS, default='flatten', help='(flatten)')
  parser.add_argument('--kernel', choices=KERNELS, default='linear', help='(linear)')
  parser.add_argument(
    '--bandwidth', type=float, help='of rbf: share of the median distance in each minibatch (0.5)'
  )
  parser.add_argument('--sigma', type=float, help='of rbf, instead: the width itself')
  parser.add_argument('--estimator', choices=ESTIMATORS, default='unbiased', help='(unbiased)')
  parser.add_argument(
    '--output', default=output, help=f'OUTPUT.npz and OUTPUT.png are written ({output})'
  )


def method_of(args: argparse.Namespace) -> Method:
  """What the flags of `add_flags` say of the estimator; raises `UserError` as `Method`."""
  by_default = args.kernel == 'rbf' and args.bandwidth is None and args.sigma is None
  return Method(args.kernel, 0.5 if by_default else args.bandwidth, args.sigma, args.estimator)


def check_output(output: str, **files: str | None) -> None:
  """Before anything is computed: can OUTPUT.npz, OUTPUT.png and these flags' files be written?"""
  flags.check_targets({'output': f'{output}.npz', **files})
  flags.check_targets({'output': f'{output}.png'})


def chosen(seen: Subject, args: argparse.Namespace) -> list[str]:
  """Layers of a checkpoint by --layers; raises `UserError` where a pattern matches none."""
  return layers.choose(layers.layer_names(seen.model), args.layers.split(','))


def in_words(method: Method) -> str:
  """'kernel rbf, bandwidth 0.5, estimator unbiased'."""
  told = dataclasses.asdict(method).items()
  return ', '.join(f'{name} {value}' for name, value in told if value is not None)


def noise_of(standard_error: np.ndarray, batches: int) -> str:
  """The standard error over batches in words."""
  if not np.isfinite(standard_error).any():
    return 'one batch, so no standard error'
  middle = np.nanmedian(standard_error)
  return f'standard error over {batches} batches {middle:.4f} (median)'


def npz_of(**arrays) -> bytes:
  """Arrays by name as the bytes of an .npz file, which can go to a bucket."""
  buffer = io.BytesIO()
  np.savez(buffer, **arrays)
  return buffer.getvalue()


def measure(x: Subject, y: Subject | None, args: argparse.Namespace, method: Method) -> Likeness:
  """One pass over the evaluation split of `x`; all processes call it alike.

  Args:
    y: the second checkpoint; None: the layers of `x` with themselves.
    args: with what `add_flags` adds, and `other`.

  Raises:
    UserError: no layer matches, too few images in a batch, or features that are not finite.
  """
  check_images(len(x.on.source), x.on.batch_size)
  names_x = chosen(x, args)
  names_y = chosen(y, args) if y else names_x
  of_x, of_y = (f' of {args.checkpoint}', f' of {args.other}') if y else ('', '')
  total = cka.MinibatchCKA(
    len(names_x),
    len(names_y),
    **dataclasses.asdict(method),
    names_x=[name + of_x for name in names_x],
    names_y=[name + of_y for name in names_y],
  )
  step = cka.make_cka_step(
    x.model,
    names_x,
    x.on.mesh,
    method,
    config_y=y.model if y else None,
    names_y=names_y if y else None,
    how=args.features,
  )
  params = [meshes.put_replicated(x.on.mesh, seen.checkpoint.params) for seen in (x, y) if seen]
  own = reading(_batches(x, x), x.on.batch_size, len(x.on.source))
  if y is None:
    for batch in own:
      total.add(step(params[0], meshes.put(x.on.mesh, batch)))
  else:  # each model's images by its own recipe, at its own size
    for batches in cka.paired(own, _batches(y, x)):
      batch_x, batch_y = (meshes.put(x.on.mesh, batch) for batch in batches)
      total.add(step(params[0], batch_x, params[1], batch_y))
  result, error = total.result(), total.standard_error()
  return Likeness(
    names_x=names_x,
    names_y=names_y,
    cka=result,
    standard_error=error,
    images=total.images,
    batches=total.batches,
    data=x.on.source.name,
    checkpoints=(args.checkpoint, args.other or args.checkpoint),
    method=in_words(method),
    features=args.features,
  )


def check_images(size: int, batch_size: int) -> None:
  """Raises `UserError` if a batch of the split has too few images for the estimator."""
  if size < LEAST_IMAGES:
    raise UserError(f'there are {size} images, and the estimator needs {LEAST_IMAGES}: take more')
  left = size % batch_size or batch_size
  if left < LEAST_IMAGES:
    raise UserError(
      f'{size} images in batches of {batch_size} leave {left} for the last one, and the estimator '
      f'needs {LEAST_IMAGES}: set another --config.eval_batch_size'
    )


def write(output: str, npz: bytes, png: bytes) -> None:
  """OUTPUT.npz and OUTPUT.png."""
  user_path(f'{output}.npz').write_bytes(npz)
  user_path(f'{output}.png').write_bytes(png)


def _batches(seen: Subject, first: Subject):
  """The images of `first` as `seen` reads them."""
  name = models.variant_of(seen.model)
  log.info('%s on %d images of %s', name, len(first.on.source), first.on.source.name)
  return pipeline.eval_batches(
    first.on.source,
    seen.on.data,
    image_size=seen.model.image_size,
    batch_size=first.on.batch_size,
    process=experiment.this_process(),
  )
