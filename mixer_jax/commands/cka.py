"""`mixer-jax cka`: how alike the layers of a checkpoint are, or those of two, on a data set."""

from mixer_jax.commands import arguments, experiment, likeness, screen, subject
from mixer_jax.parallel import processes
from mixer_jax.reporting import heatmaps


def main(argv: list[str]) -> None:
  """One pass over the evaluation split; writes OUTPUT.npz and OUTPUT.png."""
  parser = arguments.Parser('cka', __doc__ or '')
  parser.add_argument('--other', help='compare with the layers of this one; default: with itself')
  likeness.add_flags(parser, layers_default='stem,block_*,pre_logits', output='cka')
  args, overrides = parser.parse(argv)
  terminal = screen.open_screen()
  likeness.check_output(args.output)
  method = likeness.method_of(args)
  x = subject.begin('cka', args, overrides, terminal)
  y = args.other and subject.look_at(args.other, args, x.named, overrides, x.on.source)
  found = likeness.measure(x, y, args, method, terminal)
  is_first = experiment.tells()
  processes.leave_together()
  if not is_first:
    return
  png = heatmaps.heatmap(found.cka, found.names_x, found.names_y, found.title(), found.checkpoints)
  likeness.write(args.output, found.npz(), png)
  print(found.title())
  n_x, n_y = found.cka.shape
  print(f'{args.output}.npz, {args.output}.png: {n_x} × {n_y} layers')
