"""`mixer-jax probe`: how well the classes can be told from each block of a checkpoint, linearly."""

import dataclasses
import json
import sys

from mixer_jax.commands import flags
from mixer_jax.evaluation import probe
from mixer_jax.evaluation.probe import ProbeConfig
from mixer_jax.parallel import mesh as meshes
from mixer_jax.parallel import processes
from mixer_jax.runlog import console
from mixer_jax.runs import experiment, loaded_model


def main(argv: list[str]) -> None:
  """Prints a line for each block and for pre_logits."""
  parser = flags.Parser('probe', __doc__ or '')
  parser.add_argument('--checkpoint', required=True, help=flags.CHECKPOINT)
  parser.add_config(
    required=False, note="; its train split is learnt from; default: that of the checkpoint's run"
  )
  parser.add_reading()
  parser.add_argument('--l2', type=float, default=1e-3, help='of the weights (0.001)')
  parser.add_argument('--iterations', type=int, default=500, help='of L-BFGS, at most (500)')
  parser.add_argument('--json', metavar='FILE', help='also write the figures there; - is stdout')
  args, overrides = parser.parse(argv)
  console.setup_console()
  flags.check_targets({'json': args.json})
  settings = ProbeConfig(args.l2, args.iterations)
  seen = loaded_model.begin('probe', args, overrides)
  on = seen.on
  train = processes.together(lambda: experiment.open_train(on.data))
  layers = probe.linear_probe(
    seen.model,
    settings,
    meshes.put_replicated(on.mesh, seen.checkpoint.params),
    train,
    on.source,
    on.data,
    on.mesh,
    batch_size=on.batch_size,
    process=experiment.this_process(),
  )
  is_first = processes.is_main()
  processes.leave_together()
  if not is_first:
    return
  shown = sys.stderr if args.json == '-' else sys.stdout
  for layer in layers:
    line = (
      f'{layer.layer:12} top-1 {layer.top1:6.2f} %  of training images {layer.train_top1:6.2f} %'
    )
    print(line, file=shown)
  print(f'of {len(on.source)} images of {on.source.name}, learnt from {train.name}', file=shown)
  rows = [dataclasses.asdict(layer) for layer in layers]
  told = json.dumps({'checkpoint': args.checkpoint, 'data': on.source.name, 'layers': rows}) + '\n'
  flags.write(args.json, told)
