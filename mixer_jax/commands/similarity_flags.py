"""The flags that `cka` and `identify` share, and the files that they write."""

import argparse
from typing import Any

from mixer_jax.analysis.hsic import ESTIMATORS, KERNELS, Method
from mixer_jax.analysis.layers import REDUCTIONS
from mixer_jax.commands import flags
from mixer_jax.paths import user_path, write_whole


def add_flags(parser: flags.Parser, *, layers: str, output: str) -> None:
  """Add the flags for layers, estimator and output; `layers` and `output` are the defaults."""
  parser.add_evaluated(example='configs/evaluate.py:imagenet2012')
  parser.add_argument(
    '--layers',
    default=layers,
    metavar='PATTERNS',
    help=f"of `features`, as in 'block_*/channel_mixing/hidden,pre_logits' ({layers})",
  )
  parser.add_argument('--features', choices=REDUCTIONS, default='flatten', help='(flatten)')
  parser.add_argument('--kernel', choices=KERNELS, default='linear', help='(linear)')
  parser.add_argument(
    '--bandwidth', type=float, help='for rbf: share of the median distance in each minibatch (0.5)'
  )
  parser.add_argument('--sigma', type=float, help='for rbf, instead: the width itself')
  parser.add_argument('--estimator', choices=ESTIMATORS, default='unbiased', help='(unbiased)')
  parser.add_argument(
    '--output', default=output, help=f'OUTPUT.npz and OUTPUT.png are written ({output})'
  )


def settings(args: argparse.Namespace) -> dict[str, Any]:
  """Return `layers`, `method` and `features` as `compare` takes them; raise as `Method`."""
  needs_width = args.kernel == 'rbf' and args.bandwidth is None and args.sigma is None
  method = Method(args.kernel, 0.5 if needs_width else args.bandwidth, args.sigma, args.estimator)
  return {'layers': args.layers.split(','), 'method': method, 'features': args.features}


def check_output(output: str, **files: str | None) -> None:
  """Raise `UserError` unless OUTPUT.npz, OUTPUT.png and the files of these flags can be written."""
  flags.check_targets({'output': f'{output}.npz', **files})
  flags.check_targets({'output': f'{output}.png'})


def write(output: str, npz: bytes, png: bytes) -> None:
  """Write OUTPUT.npz and OUTPUT.png."""
  write_whole(user_path(f'{output}.npz'), npz)
  write_whole(user_path(f'{output}.png'), png)
