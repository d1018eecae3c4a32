"""Estimates of the TPU compiler for every variant on a TPU v3: forward pass and training step.

Usage: python benchmarks/tpu.py [VARIANT[:IMAGES]…]   (all of them; needs the compiler, no TPU)

VARIANT is one of any family: B/16, ViT-B/16, BiT-R50x1.
Both steps are those of `mixer-jax evaluate` and `mixer-jax train` at 224 px and 1000 classes,
bfloat16 with float32 parameters, Adam with clipping and decay, on the eight cores of v3:2x2. The
batch per core is doubled from 32 on while that helps and fits; then 1.5 times and 0.75 times the
best are tried. VARIANT:IMAGES adds one batch size per core; it is the way for models that take less
than 32 images.

The compiler's times are optimistic estimates: use them for a ranking only. The paper's images/s per
core (Table 3) were measured. Writes benchmarks/results/tpu_v3.json after each compilation, and
resumes from it when it is started again; at the end tpu_v3.md and tpu_v3.png.
"""

import dataclasses
import io
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from mixer_jax import models
from mixer_jax.bench import batch_size
from mixer_jax.errors import DoesNotFitError
from mixer_jax.models import paper
from mixer_jax.planning import compiler, topologies
from mixer_jax.training import step as steps
from mixer_jax.training.mixup import MixupConfig
from mixer_jax.training.optimizer import PAPER_ADAM

RESULTS = pathlib.Path(__file__).parent / 'results'
TOPOLOGY = topologies.find('v3:2x2')
LEAST = 32  # images per core

Row = dict[str, Any]


class Results:
  """The file of results: variant -> images per core -> numbers of the compiler."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    self.rows: dict[str, dict[str, Row]] = json.loads(path.read_text()) if path.exists() else {}

  def row(self, variant: str, per_core: int) -> Row:
    """Return a row of the file; compiles it first if it is missing."""
    known = self.rows.setdefault(variant, {})
    if str(per_core) not in known:
      print(f'{variant}, {per_core} images per core', file=sys.stderr, flush=True)
      known[str(per_core)] = _compiled(variant, per_core)
      self._path.write_text(json.dumps(self.rows, indent=1) + '\n')
    return known[str(per_core)]


def _compiled(variant: str, per_core: int) -> Row:
  model = dataclasses.replace(models.VARIANTS[variant], dtype='bfloat16')
  images = per_core * TOPOLOGY.devices
  program = compiler.Program(
    topology=TOPOLOGY.name,
    mesh=(TOPOLOGY.devices, 1, 1),
    model=model,
    optimizer=PAPER_ADAM,
    total_steps=100_000,
    loss='softmax',
    batch_size=images,
    accumulate=1,
    mixup=MixupConfig(),
    eval_batch_size=images,
    eval_level='uint8',
  )
  facts = compiler.compile_program(program, waiting=lambda *_: None)
  if facts.step.temporaries is None:
    return {'fits': False, 'needed_bytes': facts.step.needed}
  held = facts.parameters + facts.optimizer + facts.batch + facts.step.temporaries
  row: Row = {'fits': True, 'bytes': held}
  forward = models.forward_flops(model) * per_core
  for name, step, useful in (
    ('train', facts.step, steps.flops_per_image(model, PAPER_ADAM) * per_core),
    ('forward', facts.evaluation, forward),
  ):
    if step is None or step.optimal_seconds is None:
      continue
    row[name] = {
      'images_per_second': per_core / step.optimal_seconds,
      'share_of_peak': step.flops / step.optimal_seconds / TOPOLOGY.chip.peak,
      'model_share_of_peak': useful / step.optimal_seconds / TOPOLOGY.chip.peak,
      'flops': step.flops,
      'bytes_accessed': step.bytes_accessed,
      'temporaries': step.temporaries,
      'compile_seconds': round(step.seconds, 1),
    }
  return row


def search(results: Results, variant: str) -> None:
  """Compile the rows of a variant that are missing.

  Raises:
    DoesNotFitError: not even the smallest batch fits.
  """

  def rate(images: int) -> float:
    row = results.row(variant, images // TOPOLOGY.devices)
    if not row['fits']:
      raise DoesNotFitError(f'{row["needed_bytes"] / 2**30:.1f} GiB per core')
    return row['train']['images_per_second']

  best = batch_size.best(rate, LEAST * TOPOLOGY.devices) // TOPOLOGY.devices
  for other in (best * 3 // 2, best * 3 // 4):
    results.row(variant, other)


def best(rows: dict[str, Row], what: str) -> tuple[int, Row]:
  """Return (images per core, numbers of that step) of the row with the most images/s."""
  fitting = {int(per_core): row[what] for per_core, row in rows.items() if what in row}
  return max(fitting.items(), key=lambda item: item[1]['images_per_second'])


def _rate(results: Results, variant: str, what: str) -> float:
  return best(results.rows[variant], what)[1]['images_per_second']


def measured(variant: str) -> int | None:
  """Return the paper's images/s per core; None: it has none."""
  found = [row.images_per_second for row in paper.published(variant, None) if row.size == 224]
  return found[0] if found else None


def table(results: Results, variants: Sequence[str]) -> str:
  """Return a Markdown table."""
  lines = [
    '| | train: images/s per core | images per core | share of peak | GiB per core '
    '| GB moved per image | forward: images/s per core | share of peak | the paper measured |',
    '|---|---|---|---|---|---|---|---|---|',
  ]
  for variant in variants:
    per_core, train = best(results.rows[variant], 'train')
    _, forward = best(results.rows[variant], 'forward')
    held = results.rows[variant][str(per_core)]['bytes'] / 2**30
    known = measured(variant)
    lines.append(
      f'| {variant} | {train["images_per_second"]:,.0f} | {per_core} | '
      f'{100 * train["share_of_peak"]:.1f} % | {held:.1f} | '
      f'{train["bytes_accessed"] / per_core / 1e9:.3f} | {forward["images_per_second"]:,.0f} | '
      f'{100 * forward["share_of_peak"]:.1f} % | {f"{known:,}" if known else "–"} |'
    )
  return '\n'.join(lines) + '\n'


def plot(results: Results, variants: Sequence[str]) -> bytes:
  """Draw images/s per core by variant; returns a PNG."""
  from matplotlib.figure import Figure

  families: dict[str, list[str]] = {}
  for variant in variants:
    families.setdefault(models.VARIANTS[variant].family, []).append(variant)
  figure = Figure(figsize=(9, 3.5 * len(families)), layout='constrained')
  axes = figure.subplots(len(families), squeeze=False)[:, 0]
  for axis, shown in zip(axes, families.values(), strict=True):
    bars = {
      'training step, estimated': [_rate(results, v, 'train') for v in shown],
      'forward pass, estimated': [_rate(results, v, 'forward') for v in shown],
      "the paper's inference, measured": [measured(v) or float('nan') for v in shown],
    }
    for number, (name, heights) in enumerate(bars.items()):
      places = [place + (number - 1) * 0.27 for place in range(len(shown))]
      drawn = axis.bar(places, heights, 0.25, label=name)
      axis.bar_label(drawn, [f'{h:,.0f}' if h == h else '' for h in heights], fontsize=6)
    axis.set(yscale='log', ylabel='images/s per core', xticks=range(len(shown)))
    axis.set_xticklabels(shown)
  figure.suptitle(
    'TPU v3, 224 px, bfloat16: estimates of its compiler next to the paper', fontsize=10
  )
  axes[0].legend(fontsize=8)
  file = io.BytesIO()
  figure.savefig(file, format='png', dpi=120)
  return file.getvalue()


def main(*chosen: str) -> None:
  """Compile the rows that are missing, and report all rows."""
  results = Results(RESULTS / 'tpu_v3.json')
  for word in chosen or models.VARIANTS:
    variant, _, per_core = word.partition(':')
    try:
      results.row(variant, int(per_core)) if per_core else search(results, variant)
    except DoesNotFitError as error:
      print(f'{variant}: {LEAST} images per core do not fit: {error}', file=sys.stderr)
  shown = [
    v for v in models.VARIANTS if any(row['fits'] for row in results.rows.get(v, {}).values())
  ]
  text = table(results, shown)
  (RESULTS / 'tpu_v3.md').write_text(text)
  (RESULTS / 'tpu_v3.png').write_bytes(plot(results, shown))
  print(text, end='')


if __name__ == '__main__':
  main(*sys.argv[1:])
