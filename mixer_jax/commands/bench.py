"""`mixer-jax bench`: how fast a model runs here: images/s, and shares of what the device can do."""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable
from typing import Any

from mixer_jax.commands import flags
from mixer_jax.errors import UserError

PARTS = ('forward', 'train', 'loop', 'input', 'evaluate', 'checkpoint', 'cka')


def main(argv: list[str]) -> None:
  """Measures each part in turn and prints it; with --json all of it goes to a file."""
  parser = flags.Parser('bench', __doc__ or '')
  parser.add_argument('--model', default='B/16', help="one of the paper's, such as L/16 (B/16)")
  parser.add_argument(
    '--what', default='forward,train', metavar='PARTS', help=f'of {",".join(PARTS)} (forward,train)'
  )
  parser.add_argument(
    '--batch', default='auto', help='images over all devices; auto: the fastest that fits (auto)'
  )
  parser.add_argument('--dtype', help='of activations (bfloat16; on CPUs float32)')
  parser.add_argument('--classes', type=int, default=1000, help='(1000)')
  parser.add_argument('--image-size', type=int, default=224, help='pixels (224)')
  parser.add_argument('--peak', type=float, metavar='TFLOP/s', help="a device's, for the MFU")
  parser.add_argument('--rounds', type=int, default=7, help='whose median is told (7)')
  parser.add_argument('--steps', type=int, help='in a round; default: as many as fill a second')
  parser.add_argument(
    '--workdir', metavar='DIR', help='where checkpoints are written (a temporary folder)'
  )
  parser.add_argument('--json', metavar='FILE', help='also write all of it there; - is stdout')
  args = parser.parse_flags(argv)
  parts = _parts(args.what)
  _check(args)
  flags.check_targets({'json': args.json})
  from mixer_jax.bench import suite
  from mixer_jax.parallel import processes
  from mixer_jax.runlog import console  # JAX takes a second
  from mixer_jax.runs import pod

  terminal = console.setup_console()
  model = suite.model_of(args.model, args.dtype or 'float32', args.classes, args.image_size)
  told = {f'--{name}': repr(value) for name, value in vars(args).items()}
  pod.join('bench', told)
  bench = suite.Bench(
    model if args.dtype else suite.with_usual_dtype(model),
    batch_size=None if args.batch == 'auto' else int(args.batch),
    peak=args.peak and args.peak * 1e12,
    rounds=args.rounds,
    steps_a_round=args.steps,
    folder=args.workdir,
  )
  parts = bench.possible(parts)
  is_first = processes.is_main()
  shown = sys.stderr if args.json == '-' else sys.stdout
  say: Callable[[str], None] = lambda line: print(line, file=shown, flush=True)
  if not is_first:
    say = lambda line: None
  report = bench.subject()
  say(_heading(report))
  report['parts'] = {}
  for part in parts:
    row = report['parts'][part] = bench.measure(part)
    terminal.finish()
    say(_text(part, row))
    if is_first and args.json != '-':  # what was measured stays, should a later part fail
      flags.write(args.json, _json(report))
  processes.leave_together()
  if is_first and args.json == '-':
    flags.write('-', _json(report))


def _parts(text: str) -> list[str]:
  asked = list(dict.fromkeys(text.split(',')))
  for part in asked:
    if part not in PARTS:
      raise UserError(f'--what={text}: {part!r} is none of {", ".join(PARTS)}')
  return asked


def _check(args: argparse.Namespace) -> None:
  if args.batch != 'auto' and not (args.batch.isdecimal() and 0 < int(args.batch) <= 2**20):
    raise UserError(f'--batch={args.batch}: auto, or a whole number in 1..{2**20}')
  if args.peak is not None and not 0 < args.peak < math.inf:
    raise UserError(f'--peak={args.peak}: TFLOP/s of a device, more than 0')
  if args.workdir is not None and not os.path.isdir(args.workdir):
    raise UserError(f'--workdir={args.workdir} is no folder: make it first')
  for name, most in (('rounds', 1000), ('steps', 10**6)):
    value = getattr(args, name)
    if value is not None and not 1 <= value <= most:
      raise UserError(f'--{name}={value}: a whole number in 1..{most}')


def _json(report: dict[str, Any]) -> str:
  return json.dumps(report, indent=2) + '\n'


def _heading(report: dict[str, Any]) -> str:
  lines = [
    f'{report["model"]}, {report["num_parameters"]:,} parameters, {report["image_size"]} px, '
    f'{report["num_classes"]:,} classes, {report["dtype"]}, on {report["devices"]} × '
    f'{report["device"]}'
  ]
  if report['peak_flops_per_second']:
    lines.append(f'a device does at most {report["peak_flops_per_second"] / 1e12:,.4g} TFLOP/s')
  else:
    lines.append(
      f'the peak of {report["device"]} in {report["dtype"]} is not known (--peak tells it): '
      'no MFU, only the share of what a plain matrix multiply reaches here'
    )
  return '\n'.join(lines)


def _text(part: str, row: dict[str, Any]) -> str:
  if 'step_seconds' in row:
    return _program_text(part, row)
  lines = {
    'loop': _loop_text,
    'input': _input_text,
    'evaluate': _evaluate_text,
    'checkpoint': _checkpoint_text,
  }
  return f'{part:10} {lines[part](row)}'


def _program_text(part: str, row: dict[str, Any]) -> str:
  low, high = row['step_seconds_range']
  flops, size = row['flops'], row['batch_size']
  seconds = row['compile_seconds']
  cached = 'not kept' if seconds['cached'] is None else f'{seconds["cached"]:.1f} s from the cache'
  mfu = f'MFU {100 * row["mfu"]:.1f} %, ' if row['mfu'] else ''
  return '\n'.join(
    [
      f'{part:10} {row["images_per_second"]:,.4g} images/s, '
      f'{row["images_per_second_per_device"]:,.4g} a device, in batches of {size:,}; '
      f'{_time(row["step_seconds"])} a batch ({_time(low)} to {_time(high)})',
      f'{"":10} {mfu}{100 * row["share_of_multiply"]:.1f} % of a multiply, which does '
      f'{row["multiply_flops_per_second"] / 1e12:,.3g} TFLOP/s; '
      f'{flops["model"] / size / 1e9:,.4g} GFLOP an image, {flops["compiler"] / size / 1e9:,.4g} '
      'by the compiler',
      f'{"":10} {_size(row["program_bytes_per_device"])} a device, at most '
      f'{_size(row["peak_bytes"])} of the {row["peak_bytes_of"]} up to now; traced in '
      f'{seconds["trace"]:.1f} s, compiled in {seconds["cold"]:.1f} s, {cached}',
    ]
  )


def _loop_text(row: dict[str, Any]) -> str:
  return (
    f'{row["images_per_second"]:,.4g} images/s in batches of {row["batch_size"]:,}: '
    f'{100 * row["share_of_step"]:.1f} % of the bare step ({_time(row["bare_step_seconds"])}), '
    f'{100 * row["share_with_saves"]:.1f} % with a save a minute, which costs '
    f'{_time(row["save_seconds"])}'
  )


def _input_text(row: dict[str, Any]) -> str:
  return (
    f'{row["images_per_second"]:,.4g} images/s to train, '
    f'{row["evaluation_images_per_second"]:,.4g} to evaluate, of {row["images"]}, '
    f'on {row["cores"]} cores'
  )


def _evaluate_text(row: dict[str, Any]) -> str:
  read, both = row['input_images_per_second'], row['share_of_both']
  shared = f'; {100 * both:.1f} % of one behind the other, as they share the cores' if both else ''
  return (
    f'{row["images_per_second"]:,.4g} images/s of {row["images"]}, in batches of '
    f'{row["batch_size"]:,}: {100 * row["share_of_slower"]:.1f} % of the slower of forward '
    f'({row["forward_images_per_second"]:,.4g}) and input ({f"{read:,.4g}" if read else "none"})'
    f'{shared}'
  )


def _checkpoint_text(row: dict[str, Any]) -> str:
  return (
    f'{_size(row["bytes"])}: a save blocks for {_time(row["blocked_seconds"])}, the first one for '
    f'{_time(row["first_blocked_seconds"])}; written in {_time(row["written_seconds"])}, '
    f'restored in {_time(row["restored_seconds"])}'
  )


def _time(seconds: float) -> str:
  return f'{seconds:,.3g} s' if seconds >= 1 else f'{1000 * seconds:,.3g} ms'


def _size(count: float) -> str:
  return f'{count / 2**30:,.2f} GiB' if count >= 2**30 / 10 else f'{count / 2**20:,.1f} MiB'
