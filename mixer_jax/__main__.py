"""`mixer-jax COMMAND` = `python -m mixer_jax COMMAND`."""

import errno
import importlib
import os
import signal
import sys
import traceback

import mixer_jax
from mixer_jax.errors import ApartError, DoesNotFitError, PreemptedError, StorageError, UserError

COMMANDS = {
  'train': 'pre-train or fine-tune a Mixer; the same command again goes on where it stopped',
  'evaluate': 'accuracy of a checkpoint on a whole split',
  'predict': 'what a checkpoint sees in image files',
  'fewshot': 'accuracy of ridge regression on the features of a few images a class',
  'probe': 'how well the classes can be told from each block, linearly',
  'cka': 'how alike the layers of a checkpoint are, or those of two',
  'identify': "is each block's most similar block in another checkpoint the one at its place",
  'cka-study': 'CKA, identification and probes between depths, widths, seeds and data sets',
  'transfer': 'a checkpoint fine-tuned to the tasks of VTAB-1k or Avg 5: a table beside the paper',
  'permute': 'what shuffled pixels cost a Mixer and a ResNet: runs, a table and their curves',
  'scaling': 'accuracy against the number of training images: runs, a table and their curves',
  'report': "runs and studies on one page of HTML, beside the paper's figures",
  'prune': 'what a Mixer loses without some of its blocks, and what training brings back',
  'weights': 'what token mixing and the stem have learned, as pictures',
  'convert': 'a checkpoint as a weights file: .npz, or .safetensors for timm',
  'inspect': 'what a checkpoint is: layout, variant, sizes, largest arrays',
  'shardings': 'who holds what of a training state, and the bytes a device',
  'data': 'a data set prepared, checked record by record, or shown as training sees it',
  'plan': 'memory, time and cost of a run on a TPU slice, compiled for it without one',
  'bench': 'how fast a model runs here: images/s, shares of the peak, memory, start-up',
  'models': "the paper's variants, and the published files",
}

# A disk or folder that refuses is the user's to mend; any other OSError is a fault of ours.
_REFUSALS = {
  errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOENT,
  errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP,
}  # fmt: skip
_UNREACHED = {
  errno.ECONNREFUSED, errno.ECONNRESET, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ETIMEDOUT,
}  # fmt: skip


def _usage() -> str:
  lines = [f'  {name:10} {text}' for name, text in COMMANDS.items()]
  return '\n'.join(
    ['usage: mixer-jax COMMAND [FLAGS…]', '', *lines, '', 'mixer-jax COMMAND --help tells more.']
  )


def main(argv: list[str] | None = None) -> int:
  """Runs one command.

  0 done; 2 bad input, told in one line; 3 what is planned does not fit; 69 the processes of a pod
  did not come together; 74 a state could not be written, or the network does not answer;
  75 told to leave; 130 interrupted.
  """
  argv = sys.argv[1:] if argv is None else argv
  if not argv or argv[0] in ('-h', '--help'):
    print(_usage())
    return 0 if argv else 2
  if argv[0] == '--version':
    print(f'mixer_jax {mixer_jax.__version__}')
    return 0
  if argv[0] not in COMMANDS:
    return _complain(f'no command {argv[0]!r}: there are {", ".join(COMMANDS)}')
  try:
    importlib.import_module(f'mixer_jax.commands.{argv[0].replace("-", "_")}').main(argv[1:])
  except ApartError as error:
    _complain(str(error))
    return 69
  except StorageError as error:
    _complain(str(error))
    return 74
  except DoesNotFitError as error:
    _complain(str(error))
    return 3
  except UserError as error:
    return _complain(str(error))
  except BrokenPipeError:  # whoever read our output has enough of it
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 1
  except OSError as error:
    number = error.errno or 0
    if number in _UNREACHED or number < 0:  # below 0: a host has no address
      _complain(f'the network does not answer: {error}; try again, or name a local path')
      return 74
    if number not in _REFUSALS:
      raise
    return _complain(f'{error.filename or "a file"}: {error.strerror}')
  except PreemptedError as error:
    _complain(f'{error}: saved; the same command goes on from there')
    return 75
  except KeyboardInterrupt:
    goes_on = '; the same command goes on from the last saved state'
    _complain('interrupted' + (goes_on if argv[0] in ('train', 'transfer', 'permute') else ''))
    return 130
  return 0


def _complain(line: str) -> int:
  # Names come from files, and may hold anything.
  shown = ''.join(c if c.isprintable() else repr(c)[1:-1] for c in line)
  print(f'mixer-jax: {shown}', file=sys.stderr)
  return 2


def entry() -> None:
  """What the shell starts. After a fault it leaves at once: no thread is waited for."""

  def leave(*_):
    os.write(2, b'\nmixer-jax: interrupted\n')
    os._exit(130)

  # Python's own handler raises inside imports and callbacks of libraries, which may swallow it.
  # A command that has something to bring to an end takes it back.
  signal.signal(signal.SIGINT, leave)
  try:
    code = main()
  except Exception:  # a fault of ours; other processes must not wait for this one
    traceback.print_exc()
    code = 1
  for stream in (sys.stdout, sys.stderr):
    if stream:
      stream.flush()
  if code:
    os._exit(code)


if __name__ == '__main__':
  entry()
