"""The same model in this package, as a plain Flax Linen module, and in timm: speed side by side.

Usage: python benchmarks/peers.py [--model=B/16] [--batch=16|auto] [--dtype=float32] [--rounds=7]
         [--what=forward,train] [--torch-python=PYTHON] [--output=benchmarks/results/peers]

MODEL is a variant of any family: B/16, ViT-B/16, BiT-R50x1. All have the same sizes, the same
random weights and exact GELU, as in timm, and must agree on logits first. A training step is
forward, backward, clipping by the global norm, and AdamW that decays kernels only. The plain module
is a textbook's (peers_plain.py). timm runs in a separate interpreter (PYTHON, with torch and timm),
eager and through `torch.compile`, in `channels_last`, under autocast for bfloat16. All read the
same uint8 images from the device; one that is not installed is left out, with a message.

They take turns within each round, each after a step that is not counted. Reported are medians with
their ranges, the median over the rounds of the ratio to the plain module, the rate of a large
multiply of the same library (JAX or torch) in the same rounds, and the share of it. With
--batch=auto each takes the batch that is fastest for it. Writes OUTPUT.json and OUTPUT.png.
"""

import argparse
import dataclasses
import importlib.metadata
import io
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')  # a GPU is shared with torch

import jax
import jax.numpy as jnp
import numpy as np
import optax
import peers_plain

from mixer_jax import checkpoints, models
from mixer_jax.bench import batch_size, measure, programs
from mixer_jax.errors import DoesNotFitError
from mixer_jax.parallel import mesh as meshes
from mixer_jax.training import step as steps
from mixer_jax.training.optimizer import PAPER_ADAM, make_optimizer, make_schedule

OURS, PLAIN, EAGER, COMPILED = 'mixer_jax', 'Flax Linen', 'timm', 'timm, torch.compile'
SCHEDULE = make_schedule(PAPER_ADAM, 100_000)
TOLERANCE = {'float32': 1e-3, 'bfloat16': 0.1}
"""Largest difference between two peers' logits, whose standard deviation is about 1."""

Step = Callable[[], Any]
Run = Callable[[int], Any]
"""Runs this many steps, and waits for them."""


class Jax:
  """This package, or the plain module."""

  def __init__(self, name: str, config: models.ModelConfig, params: dict):
    self.name, self.config, self.params = name, config, params
    self._mesh = meshes.make_mesh()
    self._module = peers_plain.FORMS[config.family](config)

  def logits(self, images: np.ndarray) -> np.ndarray:
    """Return float32 logits."""
    return np.asarray(self._forward()(self.params, {'image': jnp.asarray(images)}), np.float32)

  def steps(self, what: str, size: int) -> Run:
    """Prepare steps of `size` images.

    Raises:
      DoesNotFitError: the device has too little memory.
    """
    key = jax.random.key(1)
    image = (size, self.config.image_size, self.config.image_size, 3)
    batch = {
      'image': jax.random.bits(key, image, 'uint8'),
      'label': jax.random.randint(key, (size,), 0, self.config.num_classes),
    }
    with measure.out_of_memory_as_does_not_fit():
      batch = jax.device_put(batch, meshes.batch_sharding(self._mesh))
      step = self._forward_steps(batch) if what == 'forward' else self._train_steps(batch)
      jax.block_until_ready(step())
    return lambda times: measure.repeated(step, times)()

  def _forward(self):
    if self.name == OURS:
      return programs.forward(self.config, self._mesh).function
    return jax.jit(lambda params, batch: self._module.apply({'params': params}, batch['image']))

  def _forward_steps(self, batch) -> Step:
    forward, params = self._forward(), meshes.put_replicated(self._mesh, self.params)
    return lambda: forward(params, batch)

  def _train_steps(self, batch) -> Step:
    function: Callable[[Any, Any], Any]
    params = jax.tree.map(jnp.array, self.params)  # a step donates its arguments
    if self.name == OURS:
      optimizer = make_optimizer(PAPER_ADAM, SCHEDULE)
      function = steps.make_train_step(self.config, optimizer, SCHEDULE, self._mesh, loss='softmax')
      state = steps.state_from_params(params, optimizer, self._mesh)
    else:
      optimizer, function = self._plain_train_step()
      params = meshes.put_replicated(self._mesh, params)
      state = (params, jax.jit(optimizer.init)(params))
    held: list[Any] = [state]

    def step():
      held[0], metrics = function(held[0], batch)
      return metrics

    return step

  def _plain_train_step(self):
    is_kernel = lambda tree: jax.tree.map(lambda leaf: leaf.ndim > 1, tree)
    optimizer = optax.chain(
      optax.clip_by_global_norm(1.0),
      optax.adamw(SCHEDULE, weight_decay=PAPER_ADAM.weight_decay, mask=is_kernel),
    )

    def loss_of(params, batch):
      logits = self._module.apply({'params': params}, batch['image'])
      return optax.softmax_cross_entropy_with_integer_labels(logits, batch['label']).mean()

    def step(state, batch):
      params, moments = state
      loss, gradients = jax.value_and_grad(loss_of)(params, batch)
      updates, moments = optimizer.update(gradients, moments, params)
      return (optax.apply_updates(params, updates), moments), loss

    return optimizer, jax.jit(step, donate_argnums=0)


class Torch:
  """A model of peers_torch.py, in a separate process that is idle between its turns."""

  def __init__(self, name: str, process: subprocess.Popen):
    self.name, self._process = name, process

  def ask(self, do: str, **more: Any) -> dict[str, Any]:
    """Send a request, and return its answer.

    Raises:
      DoesNotFitError: the device has too little memory.
    """
    stdin, stdout = self._process.stdin, self._process.stdout
    assert stdin
    assert stdout
    stdin.write(json.dumps({'do': do, 'compile': self.name == COMPILED, **more}) + '\n')
    stdin.flush()
    answer = stdout.readline()
    if not answer:
      raise SystemExit(f'{self.name} ended with exit code {self._process.wait()}')
    fields = json.loads(answer)
    if fields.get('out_of_memory'):
      raise DoesNotFitError(f'{self.name}: {fields["out_of_memory"]}')
    return fields

  def logits(self, images: np.ndarray) -> np.ndarray:
    """Return float32 logits."""
    with tempfile.TemporaryDirectory() as folder:
      asked, given = f'{folder}/images.npy', f'{folder}/logits.npy'
      np.save(asked, images)
      self.ask('logits', images=asked, logits=given)
      return np.load(given)

  def steps(self, what: str, size: int) -> Run:
    """Prepare steps of `size` images."""
    self.ask('prepare', what=what, batch=size)
    return lambda times: self.ask('run', what=what, times=times)


Peer = Jax | Torch


def random_weights(config: models.ModelConfig) -> dict:
  """Draw all parameters, so that no part is without effect; the head like the other kernels."""
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    name, noise = path[-1].key, rng.standard_normal(leaf.shape, np.float32)
    if name == 'kernel':
      return noise * np.sqrt(1 / np.prod(leaf.shape[:-1]), dtype=np.float32)
    return np.float32(name == 'scale') + np.float32(0.1) * noise

  return jax.tree_util.tree_map_with_path(draw, models.shapes(config))


def start_torch(
  python: str, script: str, config: models.ModelConfig, params: dict, folder: str, *more: str
):
  """Start a script of this folder with WEIGHTS CONFIG and `more`; returns (process, first answer).

  The weights are written to `folder`. If a package is missing: (None, {}), and a message.
  """
  weights = f'{folder}/weights.safetensors'
  checkpoints.save(weights, config, params)
  fields = json.dumps(dataclasses.asdict(config))
  place = pathlib.Path(__file__).with_name(script)
  try:
    process = subprocess.Popen(
      [python, str(place), weights, fields, *more],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
  except OSError as error:
    print(f'{script} is left out: {error}')
    return None, {}
  assert process.stdout
  ready = json.loads(process.stdout.readline() or '{"missing": "it exited immediately"}')
  if 'missing' in ready:
    process.wait()
    print(f'{script} is left out: {python}: {ready["missing"]}; --torch-python names another')
    return None, {}
  return process, ready


def check_logits(peers: list[Peer], config: models.ModelConfig) -> dict[str, float]:
  """Return the largest difference to this package's logits, by peer; exits if they disagree."""
  size = config.image_size
  images = np.random.default_rng(1).integers(0, 256, (2, size, size, 3), np.uint8)
  logits = {peer.name: peer.logits(images) for peer in peers}
  apart = {name: float(np.abs(found - logits[OURS]).max()) for name, found in logits.items()}
  for name, difference in apart.items():
    if not difference <= TOLERANCE[config.dtype]:
      raise SystemExit(f'{name} and {OURS} differ by {difference:.2g} in their logits')
  return apart


def batch_of(peer: Peer, what: str, asked: str) -> int:
  """Return the batch size that was asked for, or the fastest for this peer."""
  if asked != 'auto':
    return int(asked)

  def rate(size: int) -> float:
    run = peer.steps(what, size)
    run(1)
    times = measure.repeats(lambda: run(1), 1.0)
    return times * size / statistics.median(measure.interleaved({'': lambda: run(times)}, 3)[''])

  return batch_size.best(rate, 8)


def compared(
  peers: list[Peer], what: str, asked: str, rounds: int, flops: int, dtype: str
) -> dict[str, Any]:
  """Measure the peers in turn; returns peer -> its row of the report."""
  multiply = measure.Multiply(dtype)
  library = {peer.name: 'torch' if isinstance(peer, Torch) else 'jax' for peer in peers}
  sizes, runs, times = {}, {}, {}
  for peer in peers:
    try:
      sizes[peer.name] = batch_of(peer, what, asked)
      runs[peer.name] = run = peer.steps(what, sizes[peer.name])
    except DoesNotFitError as error:
      print(f'{peer.name}, {what}: {error}')
      continue
    run(1)
    times[peer.name] = measure.repeats(lambda run=run: run(1), 1.0)
  runs['jax'] = lambda times: measure.repeated(multiply, times)()
  times['jax'] = measure.repeats(lambda: runs['jax'](1), 0.3)
  for peer in peers:
    if isinstance(peer, Torch):  # either of them
      runs['torch'] = peer.steps('multiply', multiply.side)
      times['torch'] = measure.repeats(lambda: runs['torch'](1), 0.3)
      break
  works: dict[str, measure.Work] = {
    name: lambda name=name: runs[name](times[name]) for name in runs
  }
  # After a turn of the other process, the first step pays for memory that the system reassigned
  # (1.5 times as long on two cores), so that each turn begins with a step that is not counted.
  seconds = measure.interleaved(works, rounds, before=lambda name: runs[name](1))
  rates = {name: [sizes[name] * times[name] / value for value in seconds[name]] for name in sizes}
  reached = {
    name: [multiply.flops * times[name] / value for value in seconds[name]]
    for name in ('jax', 'torch')
    if name in seconds
  }
  devices = jax.device_count()
  return {
    name: {
      'batch': sizes[name],
      'images_per_second': statistics.median(found),
      'range': [min(found), max(found)],
      'ratio_to_plain': measure.ratio(found, rates[PLAIN]) if PLAIN in rates else None,
      'ratio_of_ours': measure.ratio(rates[OURS], found) if OURS in rates else None,
      'multiply_flops_per_second': statistics.median(reached[library[name]]),
      'share_of_multiply': measure.ratio(
        [rate * flops / devices for rate in found], reached[library[name]]
      ),
    }
    for name, found in rates.items()
  }


def table(what: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
  """Return the table of one part as text."""
  lines = [
    f'{what:22} batch    images/s  (range)               to plain  ours to it  of a multiply'
  ]
  for name, row in rows.items():
    low, high = row['range']
    multiply = f'{row["multiply_flops_per_second"] / 1e9:.4g} GFLOP/s'
    plain, ours = (
      '–' if row[key] is None else f'{row[key]:.2f}' for key in ('ratio_to_plain', 'ratio_of_ours')
    )
    lines.append(
      f'{name:22} {row["batch"]:5} {row["images_per_second"]:11.4g}  '
      f'{f"({low:.4g} to {high:.4g})":22} {plain:>7} {ours:>11} '
      f'{100 * row["share_of_multiply"]:6.1f} % of {multiply}'
    )
  return '\n'.join(lines)


def plot(report: Mapping[str, Any]) -> bytes:
  """Draw images/s by peer, one panel per part; returns a PNG."""
  from matplotlib.figure import Figure

  parts = report['parts']
  figure = Figure(figsize=(4.5 * len(parts), 2.6), layout='constrained')
  for axis, (what, rows) in zip(
    figure.subplots(1, len(parts), squeeze=False)[0], parts.items(), strict=True
  ):
    rates = [row['images_per_second'] for row in rows.values()]
    spread = [
      [max(abs(row['images_per_second'] - row['range'][end]), 0) for row in rows.values()]
      for end in (0, 1)
    ]
    drawn = axis.barh(list(rows), rates, xerr=spread, color='tab:blue', ecolor='gray')
    axis.bar_label(drawn, [f'{rate:.3g}' for rate in rates], label_type='center', color='white')
    axis.invert_yaxis()
    axis.set(xlabel='images/s', title=what)
  figure.suptitle(f'{report["model"]}, {report["dtype"]}, {report["device"]}', fontsize=10)
  file = io.BytesIO()
  figure.savefig(file, format='png', dpi=120)
  return file.getvalue()


def main() -> None:
  """Compare the peers, print the tables and write the report."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--model', default='B/16', choices=models.VARIANTS)
  parser.add_argument('--batch', default='16')
  parser.add_argument('--dtype', default='float32', choices=TOLERANCE)
  parser.add_argument('--rounds', type=int, default=7)
  parser.add_argument('--what', default='forward,train')
  parser.add_argument('--torch-python', default=sys.executable)
  parser.add_argument('--output', default='benchmarks/results/peers')
  args = parser.parse_args()
  config = models.VARIANTS[args.model]
  gelu = {'gelu': 'erf'} if hasattr(config, 'gelu') else {}
  config = dataclasses.replace(config, dtype=args.dtype, **gelu)
  params = random_weights(config)
  with tempfile.TemporaryDirectory() as folder:
    process, versions = start_torch(args.torch_python, 'peers_torch.py', config, params, folder)
    peers: list[Peer] = [Jax(name, config, params) for name in (OURS, PLAIN)]
    if process:
      peers += [Torch(name, process) for name in (EAGER, COMPILED)]
    apart = check_logits(peers, config)
    report: dict[str, Any] = {
      'model': args.model,
      'dtype': args.dtype,
      'device': f'{jax.device_count()} × {jax.devices()[0].device_kind}, {os.cpu_count()} cores',
      'versions': {p: importlib.metadata.version(p) for p in ('jax', 'flax')} | versions,
      'logits_apart': apart,
      'rounds': args.rounds,
      'parts': {},
    }
    for what in args.what.split(','):
      is_forward = what == 'forward'
      flops = (
        models.forward_flops(config) if is_forward else steps.flops_per_image(config, PAPER_ADAM)
      )
      rows = compared(peers, what, args.batch, args.rounds, flops, args.dtype)
      report['parts'][what] = rows
      print(table(what, rows), flush=True)
    if process and process.stdin:
      process.stdin.close()
      process.wait()
  pathlib.Path(f'{args.output}.json').write_text(json.dumps(report, indent=1) + '\n')
  try:
    pathlib.Path(f'{args.output}.png').write_bytes(plot(report))
  except ModuleNotFoundError as error:
    print(f'no picture: {error}')


if __name__ == '__main__':
  main()
