"""`mixer-jax identify`: is each layer's most similar layer in another checkpoint the same one?"""

from mixer_jax.commands import flags, similarity_flags
from mixer_jax.pictures import heatmaps
from mixer_jax.runlog import console
from mixer_jax.runs import pod
from mixer_jax.runs.loaded_model import open_for_command
from mixer_jax.runs.similarity import BLOCKS, LayerIdentification, identify


def main(argv: list[str]) -> None:
  """Identify layers by CKA, in both directions; write OUTPUT.npz and OUTPUT.png."""
  parser = flags.Parser('identify', __doc__ or '')
  parser.add_argument(
    '--other', required=True, help='checkpoint whose layers are searched, with as many blocks'
  )
  similarity_flags.add_flags(parser, layers=','.join(BLOCKS), output='identify')
  parser.add_json()
  args, overrides = parser.parse(argv)
  console.setup_console()
  similarity_flags.check_output(args.output, json=args.json)
  settings = similarity_flags.settings(args)
  checkpoints = [args.checkpoint, args.other]
  x, y = open_for_command(
    'identify', checkpoints, args.config, overrides, settings=vars(args), **flags.reading(args)
  )
  found = identify(x, y, **settings)
  if not pod.leave():
    return
  similarity = found.similarity
  png = heatmaps.heatmap(
    similarity.cka,
    similarity.names_x,
    similarity.names_y,
    f'{found.summary()}\n{similarity.title()}',
    similarity.checkpoints,
    marked=found.forward.nearest,
  )
  similarity_flags.write(args.output, found.npz(), png)
  text = f'{_table(found)}\n{args.output}.npz, {args.output}.png: {found.summary()}'
  flags.report(text, found.to_json(), args.json)


def _table(found: LayerIdentification) -> str:
  """Return a line for each layer: the most similar layer of the other checkpoint, both ways."""
  names, cka = found.similarity.names_x, found.similarity.cka
  width = max(len(name) for name in names)

  def match(index: int, value: float) -> str:
    return f'{names[index]:{width}} {value:6.3f}' if index >= 0 else f'{"none":{width + 7}}'

  column = max(width + 7, 18)
  lines = [f'{"layer":{width}}  {"most similar there":{column}}  most similar to it here']
  pairs = zip(names, found.forward.nearest, found.backward.nearest, strict=True)
  for i, (name, there, here) in enumerate(pairs):
    lines.append(
      f'{name:{width}}  {match(there, cka[i, there]):{column}}  {match(here, cka[here, i])}'
    )
  return '\n'.join(lines)
