"""`mixer-jax bench`: speed of a model on this machine: images/s, and shares of the peak."""

import json
from typing import Any

from mixer_jax.bench import settings as bench_settings
from mixer_jax.commands import flags
from mixer_jax.errors import UserError


def main(argv: list[str]) -> None:
  """Measure each part in turn and print it; with --json the report goes to a file."""
  parts = ','.join(bench_settings.PARTS)
  parser = flags.Parser('bench', __doc__ or '')
  parser.add_config(required=False, note='; its model and optimizer, and its images for input')
  parser.add_argument('--model', help='a variant of the paper, such as L/16 (B/16)')
  parser.add_argument(
    '--what', default='forward,train', metavar='PARTS', help=f'some of {parts} (forward,train)'
  )
  parser.add_argument(
    '--batch',
    default='auto',
    help='images over all devices; auto: the fastest that fits, for input 256 per process (auto)',
  )
  parser.add_argument('--dtype', help='dtype of activations (bfloat16; on CPUs float32)')
  parser.add_argument('--classes', type=int, help='(1000)')
  parser.add_argument('--image-size', type=int, help='pixels (224)')
  parser.add_argument('--peak', type=float, metavar='TFLOP/s', help='per device, for the MFU')
  parser.add_argument('--rounds', type=int, default=7, help='whose medians are reported (7)')
  parser.add_argument('--steps', type=int, help='per round; default: as many as fill a second')
  parser.add_argument(
    '--workdir', metavar='DIR', help='where checkpoints are written (a temporary folder)'
  )
  parser.add_argument('--json', metavar='FILE', help='also write the report there; - is stdout')
  args, overrides = parser.parse(argv)
  if args.batch != 'auto' and not args.batch.isdecimal():
    raise UserError(f'--batch={args.batch}: auto, or a whole number')
  of_model = {'name': args.model, 'classes': args.classes, 'image_size': args.image_size}
  chosen = {name: value for name, value in of_model.items() if value is not None}
  if args.config and chosen:
    raise UserError('--model, --classes and --image-size: with --config set --config.model.…')
  if overrides and not args.config:
    raise UserError(f'{overrides[0]} sets a field of --config: name its file')
  flags.check_targets({'json': args.json})
  from mixer_jax.bench import report_text, suite  # JAX takes a second to import
  from mixer_jax.parallel import processes
  from mixer_jax.runlog import console
  from mixer_jax.runs import pod

  console.setup_console()
  experiment, model = None, None
  if args.config:
    from mixer_jax.runs.config_file import load_config
    from mixer_jax.runs.initial_model import model_of
    from mixer_jax.runs.run_config import RunConfig

    experiment = RunConfig.from_fields(load_config(args.config, overrides))
    model = model_of(experiment)
  settings = bench_settings.BenchSettings(
    model=model or suite.model_of(**chosen),
    parts=tuple(dict.fromkeys(args.what.split(','))),
    dtype=args.dtype or 'auto',
    batch_size=None if args.batch == 'auto' else int(args.batch),
    peak=args.peak and args.peak * 1e12,
    rounds=args.rounds,
    steps_per_round=args.steps,
    folder=args.workdir,
    experiment=experiment,
  )
  pod.join('bench', pod.settings_of(vars(args), experiment and experiment.to_fields()))
  is_main = processes.is_main()

  def show(report: dict[str, Any], part: str | None) -> None:
    if not is_main:
      return
    if part is None:
      flags.show(report_text.heading(report), args.json)
      return
    flags.show(report_text.part(part, report['parts'][part]), args.json)
    if args.json != '-':  # results so far are kept if a later part fails
      flags.write(args.json, json.dumps(report, indent=2) + '\n')

  report = suite.run(settings, show)
  processes.leave_together()
  if is_main and args.json == '-':
    flags.write('-', json.dumps(report, indent=2) + '\n')
