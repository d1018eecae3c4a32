"""`mixer-jax identify`: is each block's most similar block in another checkpoint the same one?"""

import dataclasses
import json
import math
import sys

from mixer_jax.analysis.identification import Identification, identify
from mixer_jax.commands import flags
from mixer_jax.errors import UserError
from mixer_jax.parallel import processes
from mixer_jax.pictures import heatmaps
from mixer_jax.runlog import console
from mixer_jax.runs import loaded_model, similarity


def main(argv: list[str]) -> None:
  """Layer identification by CKA, both ways; writes OUTPUT.npz and OUTPUT.png.

  Between two models that differ in their seed only, a good measure of similarity finds for each
  layer the one at the same place (Kornblith et al. 2019).
  """
  parser = flags.Parser('identify', __doc__ or '')
  parser.add_argument('--other', required=True, help='whose layers are searched, of as many blocks')
  similarity.add_flags(parser, layers_default='block_*', output='identify')
  parser.add_argument('--json', metavar='FILE', help='also write the figures there; - is stdout')
  args, overrides = parser.parse(argv)
  console.setup_console()
  similarity.check_output(args.output, json=args.json)
  method = similarity.method_of(args)
  x = loaded_model.begin('identify', args, overrides)
  y = loaded_model.look_at(args.other, args, x.named, overrides, x.on.source)
  names_x, names_y = (similarity.chosen(seen, args) for seen in (x, y))
  if names_x != names_y:
    raise UserError(
      f'{args.checkpoint} has {len(names_x)} such layers and {args.other} {len(names_y)}, or '
      'others: identification needs the same in both; mixer-jax cka compares any'
    )
  found = similarity.measure(x, y, args, method)
  is_first = processes.is_main()
  processes.leave_together()
  if not is_first:
    return
  there, back = identify(found.cka), identify(found.cka.T)
  words = (
    f'{there.accuracy:.1f} % of the layers identified, the other way round {back.accuracy:.1f} % '
    f'(chance {there.chance:.1f} %)'
  )
  png = heatmaps.heatmap(
    found.cka,
    found.names_x,
    found.names_y,
    f'{words}\n{found.title()}',
    found.checkpoints,
    marked=there.nearest,
  )
  npz = found.npz(nearest=there.nearest, accuracy=[there.accuracy, back.accuracy])
  similarity.write(args.output, npz, png)
  report = {
    'checkpoints': found.checkpoints,
    'data': found.data,
    'images': found.images,
    'method': found.method,
    'features': found.features,
    'layers': found.names_x,
    'identified': dataclasses.asdict(there),
    'identified_back': dataclasses.asdict(back),
    'cka': [[x if math.isfinite(x) else None for x in row] for row in found.cka.tolist()],
  }
  shown = sys.stderr if args.json == '-' else sys.stdout
  print(_table(found, there, back), file=shown)
  print(f'{args.output}.npz, {args.output}.png: {words}', file=shown)
  flags.write(args.json, json.dumps(report) + '\n')


def _table(found: similarity.Likeness, there: Identification, back: Identification) -> str:
  """A line a layer: the layer of the other checkpoint that is most like it; and the other way."""
  names = found.names_x
  width = max(len(name) for name in names)

  def told(place: int, similarity: float) -> str:
    return f'{names[place]:{width}} {similarity:6.3f}' if place >= 0 else f'{"none":{width + 7}}'

  lines = [
    f'{"layer":{width}}  {"most like it there":{max(width + 7, 18)}}  most like the one there'
  ]
  for i, (name, one, other) in enumerate(zip(names, there.nearest, back.nearest, strict=True)):
    forth, to_here = told(one, found.cka[i, one]), told(other, found.cka[other, i])
    lines.append(f'{name:{width}}  {forth:18}  {to_here}')
  return '\n'.join(lines)
