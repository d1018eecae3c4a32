"""`mixer-jax models`: the papers' variants and what they cost; the published files."""

from mixer_jax.checkpoints import catalogue
from mixer_jax.checkpoints.published import MIRROR_SETTING
from mixer_jax.commands.flags import Parser, show
from mixer_jax.pictures.text_tables import aligned


def main(argv: list[str]) -> None:
  """Prints the papers' tables, counted from the models here, and the files to load by name."""
  parser = Parser('models', __doc__ or '')
  parser.add_argument('family', nargs='?', help='mixer, resnet or vit; default: all')
  args = parser.parse_flags(argv)
  for chapter in catalogue.chapters(args.family):
    show(f'{chapter.title}\n')
    for (header, *rows), left in ((chapter.variants, 1), (chapter.files, len(chapter.files[0]))):
      if rows:
        show(aligned(header, rows, left=left))
  show(
    'Variants: 224 px, 1000 classes; GFLOP: matrix multiplies of a forward pass, 2 per '
    'multiply-add.\n'
    'Files: accuracies as published, on ImageNet at px, percent; ~ is the size of the arrays. Load '
    'a file\n'
    'by its name, as in\n'
    '`mixer-jax evaluate --checkpoint=imagenet1k/Mixer-B_16 '
    '--config=configs/evaluate.py:imagenet2012`;\n'
    f'it comes from the network, or from the folder that ${MIRROR_SETTING} names.\n'
    "Any other of AugReg's files is loaded by its name as well: augreg/B_16-i21k-300ep-….\n"
  )
