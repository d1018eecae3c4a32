"""`mixer-jax cka`: how alike the layers of a checkpoint are, or those of two, on a data set."""

from mixer_jax.commands import flags
from mixer_jax.parallel import processes
from mixer_jax.pictures import heatmaps
from mixer_jax.runlog import console
from mixer_jax.runs import loaded_model, similarity


def main(argv: list[str]) -> None:
  """One pass over the evaluation split; writes OUTPUT.npz and OUTPUT.png."""
  parser = flags.Parser('cka', __doc__ or '')
  parser.add_argument('--other', help='compare with the layers of this one; default: with itself')
  similarity.add_flags(parser, layers_default='stem,block_*,pre_logits', output='cka')
  args, overrides = parser.parse(argv)
  console.setup_console()
  similarity.check_output(args.output)
  method = similarity.method_of(args)
  x = loaded_model.begin('cka', args, overrides)
  y = args.other and loaded_model.look_at(args.other, args, x.named, overrides, x.on.source)
  found = similarity.measure(x, y, args, method)
  is_first = processes.is_main()
  processes.leave_together()
  if not is_first:
    return
  png = heatmaps.heatmap(found.cka, found.names_x, found.names_y, found.title(), found.checkpoints)
  similarity.write(args.output, found.npz(), png)
  print(found.title())
  n_x, n_y = found.cka.shape
  print(f'{args.output}.npz, {args.output}.png: {n_x} × {n_y} layers')
