"""`mixer-jax cka`: similarity of the layers of a checkpoint, or of two, on a data set."""

from mixer_jax.commands import flags, similarity_flags
from mixer_jax.pictures import heatmaps
from mixer_jax.runlog import console
from mixer_jax.runs import pod
from mixer_jax.runs.loaded_model import open_for_command
from mixer_jax.runs.similarity import LAYERS, compare


def main(argv: list[str]) -> None:
  """Make one pass over the evaluation split; write OUTPUT.npz and OUTPUT.png."""
  parser = flags.Parser('cka', __doc__ or '')
  parser.add_argument('--other', help='compare with the layers of this one; default: with itself')
  similarity_flags.add_flags(parser, layers=','.join(LAYERS), output='cka')
  args, overrides = parser.parse(argv)
  console.setup_console()
  similarity_flags.check_output(args.output)
  settings = similarity_flags.settings(args)
  checkpoints = [args.checkpoint, args.other] if args.other else [args.checkpoint]
  loaded = open_for_command(
    'cka', checkpoints, args.config, overrides, settings=vars(args), **flags.reading(args)
  )
  found = compare(*loaded, **settings)
  if not pod.leave():
    return
  png = heatmaps.heatmap(found.cka, found.names_x, found.names_y, found.title(), found.checkpoints)
  similarity_flags.write(args.output, found.npz(), png)
  flags.show(found.title())
  n_x, n_y = found.cka.shape
  flags.show(f'{args.output}.npz, {args.output}.png: {n_x} × {n_y} layers')
