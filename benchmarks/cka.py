"""Time and memory of CKA between all layers of a Mixer, next to the forward pass and torch_cka.

Usage: python benchmarks/cka.py [--images=2000] [--batch=250] [--rounds=7] [--kernel=linear]
         [--features=flatten] [--torch-python=PYTHON] [--output=benchmarks/results/cka]

A Mixer of 12 blocks, width 256 and 49 tokens with random weights; 50 layers: the stem, both norms,
the hidden layer of token mixing and the output of every block, pre-logits. Images are random and
in memory. Forward pass and CKA take turns within each round; medians of the rounds. Temporary
memory is what the compiler reserves for a batch; it does not depend on the number of images.

torch_cka gets the same weights, layers, images and batches in timm's Mixer, in a separate
interpreter (PYTHON), once: it takes minutes. It has the same estimator, linear, of whole features,
and the two results must agree. Writes OUTPUT.json.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import statistics
import tempfile
import time
from typing import Any

import jax
import numpy as np
from peers import start_torch

from mixer_jax import models
from mixer_jax.analysis import cka, hsic, layers
from mixer_jax.bench import measure
from mixer_jax.parallel import mesh as meshes

CONFIG = models.MixerConfig(
  patch_size=8,
  num_blocks=12,
  hidden_dim=256,
  tokens_mlp_dim=128,
  channels_mlp_dim=1024,
  image_size=56,
  num_classes=10,
  gelu='erf',
)
LAYERS = ('stem', 'block_*/*/norm', 'block_*/token_mixing/hidden', 'block_*', 'pre_logits')
TIMM = {'stem': 'stem', 'pre_logits': 'head_drop'}
_IN_A_BLOCK = {
  '/token_mixing/norm': '.norm1',
  '/token_mixing/hidden': '.mlp_tokens.act',
  '/channel_mixing/norm': '.norm2',
  '': '',
}
TIMM |= {
  f'block_{i}{ours}': f'blocks.{i}{theirs}'
  for i in range(CONFIG.num_blocks)
  for ours, theirs in _IN_A_BLOCK.items()
}
TOLERANCE = 0.005
"""Largest difference between the tools; torch_cka sums uncentred Gram matrices in float32."""


def with_torch(python: str, params: dict, images: np.ndarray, batch: int, names: list[str]):
  """Return (seconds, matrix, version) of torch_cka; None, with a message, if it is missing."""
  with tempfile.TemporaryDirectory() as folder:
    pixels, result = f'{folder}/images.npy', f'{folder}/cka.npy'
    np.save(pixels, images)
    more = (pixels, str(batch), ','.join(TIMM[name] for name in names), result)
    process, ready = start_torch(python, 'cka_torch.py', CONFIG, params, folder, *more)
    if process is None:
      return None
    begun = time.perf_counter()
    process.communicate('\n')  # one comparison; then it ends
    taken = time.perf_counter() - begun
    if process.returncode:
      raise SystemExit(f'torch_cka ended with exit code {process.returncode}')
    return taken, np.load(result), ready['torch']


def compare(args: argparse.Namespace) -> dict[str, Any]:
  """Measure, and return the report."""
  method = hsic.Method(args.kernel, bandwidth=0.5 if args.kernel == 'rbf' else None)
  mesh = meshes.make_mesh()
  names = layers.choose(layers.layer_names(CONFIG), LAYERS)
  step = cka.make_cka_step(CONFIG, names, mesh, method, how=args.features)
  forward = jax.jit(lambda params, batch: models.apply(CONFIG, params, batch['image']))
  own = jax.device_get(models.init(CONFIG, jax.random.key(0)))
  params = meshes.put_replicated(mesh, own)
  size = (args.images, CONFIG.image_size, CONFIG.image_size, 3)
  images = np.random.default_rng(0).integers(0, 256, size, np.uint8)
  batches = [
    {'image': part, 'mask': np.ones(len(part), bool)}
    for part in np.split(images, range(args.batch, args.images, args.batch))
  ]

  def run_forward():
    jax.block_until_ready([forward(params, meshes.put(mesh, batch)) for batch in batches])

  def run_cka():
    total = cka.MinibatchCKA(len(names), len(names), **dataclasses.asdict(method))
    for batch in batches:
      total.add(step(params, meshes.put(mesh, batch)))
    return total.result()

  works: dict[str, measure.Work] = {'forward': run_forward, 'cka': run_cka}
  seconds = measure.interleaved(works, args.rounds)
  placed = meshes.put(mesh, batches[0])
  report: dict[str, Any] = {
    'layers': len(names),
    'images': args.images,
    'batch': args.batch,
    'kernel': args.kernel,
    'features': args.features,
    'device': f'{jax.device_count()} × {jax.devices()[0].device_kind}, {os.cpu_count()} cores',
    'jax': importlib.metadata.version('jax'),
    'seconds': {name: statistics.median(found) for name, found in seconds.items()},
    'ratio_to_forward': measure.ratio(seconds['cka'], seconds['forward']),
    'temporary_MiB': {
      name: _memory(function, params, placed)
      for name, function in (('forward', forward), ('cka', step))
    },
  }
  if args.torch_python:
    found = with_torch(args.torch_python, own, images, args.batch, names)
    if found:
      taken, matrix, version = found
      apart = float(np.abs(matrix - run_cka()).max())
      if not apart <= TOLERANCE:
        raise SystemExit(f'torch_cka and mixer_jax differ by {apart:.2g}')
      report['torch'] = version
      report['torch_cka'] = {
        'seconds': taken,
        'times_ours': taken / report['seconds']['cka'],
        'apart': apart,
      }
  return report


def _memory(step: Any, params: dict, batch: dict) -> float:
  """Return the MiB of temporaries of a compiled step; NaN if the compiler does not report it."""
  analysis = step.lower(params, batch).compile().memory_analysis()
  return analysis.temp_size_in_bytes / 2**20 if analysis else float('nan')


def main() -> None:
  """Measure, write the report and print it."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--images', type=int, default=2000)
  parser.add_argument('--batch', type=int, default=250)
  parser.add_argument('--rounds', type=int, default=7)
  parser.add_argument('--kernel', default='linear', choices=hsic.KERNELS)
  parser.add_argument('--features', default='flatten', choices=layers.REDUCTIONS)
  parser.add_argument('--torch-python', default='')
  parser.add_argument('--output', default='benchmarks/results/cka')
  args = parser.parse_args()
  if args.torch_python and (args.kernel, args.features) != ('linear', 'flatten'):
    parser.error('torch_cka has the linear kernel of whole features only')
  text = json.dumps(compare(args), indent=1)
  pathlib.Path(f'{args.output}.json').write_text(text + '\n')
  print(text)


if __name__ == '__main__':
  main()
