"""Sources at the size of ImageNet-21k: time to open one, memory, and the lock of Python per record.

Usage: python -m benchmarks.sources [SHARDS] [RECORDS]   (1024 shards of 13864 records)
       python -m benchmarks.sources FOLDER               (a folder of class folders)

A data set of that many shards is made up: all of them are links to one file of small records. It is
opened as TFRecord, first without and then with its index, and as array_record; then sent to another
process, which reads 4,096 records at random. Memory is what Python has gained over its imports
(resident, of which the mapped index is shared by all processes). `ulimit -n` is set to 1,024.

The lock: CPU time of one thread for a record of 110 KB, while the system calls that read it, which
release the lock, are played by a look-up; the median over rounds.
"""

import json
import os
import pathlib
import pickle
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time

FORMATS = ('tfrecord', 'array_record')

# In a process of its own, since it loads TensorFlow.
MAKE = """
import io, random, sys
import tensorflow_datasets as tfds
folder, file_format, count, size = sys.argv[1:]
rng = random.Random(0)
def records():
  for i in range(int(count)):
    yield i, {'image': io.BytesIO(rng.randbytes(int(size))), 'label': i % 1000, 'file_name': str(i)}
builder = tfds.builder('imagenet2012', data_dir=folder, file_format=file_format)
builder._split_generators = lambda *_: {'train': records()}
config = tfds.download.DownloadConfig(num_shards=1)
builder.download_and_prepare(download_config=config)
"""

READ = """
import pickle, random, resource, sys, time
import numpy
import mixer_jax.data.array_records, mixer_jax.data.tfrecords
from benchmarks.sources import resident
before, begun = resident(), time.perf_counter()
with open(sys.argv[1], 'rb') as file:
  source = pickle.load(file)
source[0]
first = time.perf_counter() - begun
rng = random.Random(1)
for _ in range(4096):
  assert source[rng.randrange(len(source))]['image'] is not None
files = len(__import__('os').listdir('/proc/self/fd'))
print(f'another process: first record after {first:.2f} s, then {resident() - before:.0f} MB '
      f'({resident(shared=True):.0f} MB of files, shared) and {files} open files '
      f'after 4,096 records at random')
"""


def resident(shared: bool = False) -> float:
  """Return the resident memory of this process in MB, or the part of it that files are."""
  fields = pathlib.Path('/proc/self/statm').read_text().split()
  return int(fields[2 if shared else 1]) * resource.getpagesize() / 2**20


def make(folder: str, kind: str, shards: int, records: int, size: int = 8) -> None:
  """Make a data set of equal shards."""
  command = [sys.executable, '-c', MAKE, folder, kind, str(records), str(size)]
  subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
  (info,) = pathlib.Path(folder).rglob('dataset_info.json')
  (only,) = info.parent.glob('*-00000-of-00001')
  shard = only.rename(info.parent / 'only')
  for number in range(shards):
    os.link(shard, str(only).replace('00000-of-00001', f'{number:05}-of-{shards:05}'))
  shard.unlink()
  fields = json.loads(info.read_text())
  fields['splits'][0]['shardLengths'] = [str(records)] * shards
  info.write_text(json.dumps(fields))


def open_and_send(kind: str, folder: str, place: str) -> None:
  """Open the data set twice, send it to another process, and print the figures."""
  from mixer_jax.data.catalog import open_source

  for state in ('for the first time', 'again'):
    before, begun = resident(), time.perf_counter()
    cpu = time.process_time()
    source = open_source('imagenet2012', 'train', folder)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    print(
      f'{kind}, opened {state}: {seconds:.1f} s ({cpu:.1f} s of CPU), '
      f'{len(source):,} records, {resident() - before:.0f} MB'
    )
  data = pickle.dumps(source)
  pathlib.Path(place).write_bytes(data)
  print(f'{kind}, pickled: {len(data) / 1e6:.2f} MB')
  done = subprocess.run([sys.executable, '-c', READ, place], check=True, capture_output=True)
  print(f'{kind}, {done.stdout.decode().strip()}')


def lock(folder: str, rounds: int = 200) -> None:
  """Print the CPU time per record of 110 KB without the system call that reads it."""
  from mixer_jax.data.catalog import open_source

  source, stored, pread = open_source('imagenet2012', 'train', folder), {}, os.pread
  count = len(source)

  def keep(descriptor: int, size: int, at: int) -> bytes:
    return stored.setdefault((descriptor, size, at), pread(descriptor, size, at))

  os.pread = keep
  for index in range(count):
    source[index]
  os.pread = lambda *key: stored[key]
  for name, read in (('records[i]', source.records.__getitem__), ('source[i]', source.__getitem__)):
    times = []
    for _ in range(rounds):
      begun = time.thread_time()
      for index in range(count):
        read(index)
      times.append((time.thread_time() - begun) / count * 1e6)
    quarter = statistics.quantiles(times, n=4)[0]
    print(f'lock, {name}: {statistics.median(times):.1f} µs (first quartile {quarter:.1f})')
  os.pread = pread


def folder_of_images(folder: str) -> None:
  """Open a folder of class folders, first unknown and then remembered, and print the figures."""
  from mixer_jax.data import listings
  from mixer_jax.data.catalog import open_source

  with tempfile.TemporaryDirectory() as cache:
    os.environ['MIXER_JAX_CACHE'] = cache
    for state in ('for the first time', 'again'):
      for split in ('', 'train[:99%]'):
        listings._load.cache_clear()  # as in another process
        begun, cpu = time.perf_counter(), time.process_time()
        source = open_source(f'folder:{folder}', split)
        seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
        words = f'{split or "train"} opened {state}: {seconds:.1f} s ({cpu:.1f} s of CPU)'
        print(f'{words}, {len(source):,} files')
    print(f'pickled: {len(pickle.dumps(source)) / 1e6:.1f} MB')
    begun, cpu = time.perf_counter(), time.process_time()
    source.contents()
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    print(f'sizes of all files, as at a resume: {seconds:.1f} s ({cpu:.1f} s of CPU)')


def main(shards: str = '1024', records: str = '13864') -> None:
  """Measure, and print."""
  if not shards.isdecimal():
    folder_of_images(shards)
    return
  _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
  random.seed(0)
  import tensorflow_datasets as tfds

  tfds.builder('imagenet2012', try_gcs=False)  # so that its imports are not counted
  with tempfile.TemporaryDirectory() as root:
    os.environ['MIXER_JAX_CACHE'] = f'{root}/cache'
    make(f'{root}/large', 'tfrecord', 1, 64, 110_000)
    lock(f'{root}/large')
    for kind in FORMATS:
      make(f'{root}/{kind}', kind, int(shards), int(records))
      open_and_send(kind, f'{root}/{kind}', f'{root}/sent')


if __name__ == '__main__':
  main(*sys.argv[1:])
