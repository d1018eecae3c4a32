"""`mixer-jax models`: the paper's variants and what they cost; the published files."""

from mixer_jax.checkpoints import catalogue
from mixer_jax.checkpoints.published import MIRROR_SETTING
from mixer_jax.commands.flags import Parser, show
from mixer_jax.pictures.text_tables import aligned


def main(argv: list[str]) -> None:
  """Prints Table 1 of the paper, counted from the models here, and the files to load by name."""
  parser = Parser('models', __doc__ or '')
  parser.parse_flags(argv)
  for header, *rows in catalogue.variants():
    show(aligned(header, rows, left=0))
  show('224 px, 1000 classes. GFLOP: matrix multiplies of one forward pass, 2 per multiply-add.\n')
  header, *rows = catalogue.published_files()
  show(aligned(header, rows, left=len(header)))
  show(
    'Accuracies as published, on ImageNet at 224 px, percent. Load a file by its name, as in\n'
    '`mixer-jax evaluate --checkpoint=imagenet1k/Mixer-B_16 '
    '--config=configs/evaluate.py:imagenet2012`;\n'
    f'it comes from the network, or from the folder that ${MIRROR_SETTING} names.'
  )
