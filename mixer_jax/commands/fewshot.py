"""`mixer-jax fewshot`: ridge regression on a checkpoint's features of a few images a class."""

import json
import sys

from mixer_jax.commands import flags
from mixer_jax.evaluation import fewshot
from mixer_jax.evaluation.fewshot import FewShotConfig
from mixer_jax.parallel import mesh as meshes
from mixer_jax.parallel import processes
from mixer_jax.runlog import console
from mixer_jax.runs import experiment, loaded_model
from mixer_jax.runs.fields import parse_numbers


def main(argv: list[str]) -> None:
  """Prints a line for each number of shots: the mean over seeds, and their deviation."""
  parser = flags.Parser('fewshot', __doc__ or '')
  parser.add_argument('--checkpoint', required=True, help=flags.CHECKPOINT)
  parser.add_config(
    required=False, note="; its train split is learnt from; default: that of the checkpoint's run"
  )
  parser.add_reading()
  paper = fewshot.PAPER
  shots = ','.join(map(str, paper.shots))
  parser.add_argument('--shots', default=shots, help=f'images a class ({shots})')
  parser.add_argument('--seeds', type=int, default=paper.seeds, help=f'choices ({paper.seeds})')
  parser.add_argument('--l2', type=float, default=paper.l2, help=f'({paper.l2:g})')
  parser.add_argument('--json', metavar='FILE', help='also write the figures there; - is stdout')
  args, overrides = parser.parse(argv)
  console.setup_console()
  flags.check_targets({'json': args.json})
  counts = parse_numbers('--shots', args.shots, int)
  few = FewShotConfig(counts, args.seeds, args.l2, paper.constant, paper.max_reads)
  seen = loaded_model.begin('fewshot', args, overrides)
  on = seen.on
  train = processes.together(lambda: experiment.open_train(on.data))
  evaluator = fewshot.FewShot(
    seen.model,
    few,
    train,
    on.source,
    on.data,
    on.mesh,
    batch_size=on.batch_size,
    process=experiment.this_process(),
  )
  figures = evaluator(meshes.put_replicated(on.mesh, seen.checkpoint.params))
  is_first = processes.is_main()
  processes.leave_together()
  if not is_first:
    return
  shown = sys.stderr if args.json == '-' else sys.stdout
  for count in counts:
    line = f'{count:3d} images a class: {figures[f"{count}-shot"]:.2f} %'
    if few.seeds > 1:
      line += f' ± {figures[f"{count}-shot_deviation"]:.2f} over {few.seeds} choices'
    print(line, file=shown)
  print(f'of {len(on.source)} images of {on.source.name}, learnt from {train.name}', file=shown)
  told = json.dumps({'checkpoint': args.checkpoint, 'data': on.source.name, **figures}) + '\n'
  flags.write(args.json, told)
