"""Times tokenizing, and the delivery of batches, as ratios within one run.

Tokenizing: the whole of `drope tokenize` (reading jsonl, starting workers,
writing the store) against `tokenizers`' and sentencepiece's own batch encoding
of the same texts, in memory, on all cores. Delivery: the batches that a
training loop takes from a store, against Hugging Face `datasets` streaming the
same text through the same tokenizer and the same concat-and-chunk, and against
`datasets` streaming rows that were tokenized and packed beforehand. Each row is
a fresh process; the rows take turns, round after round, and a ratio is the
median over rounds. Needs `pip install datasets`.

python tools/bench_data.py --json bench_data.json
"""

import argparse
from collections.abc import Callable, Iterator
import itertools
import json
import os
import pathlib
import statistics
import tempfile
import time

import numpy as np
import sentencepiece
import tokenizers

from drope_jax.data import corpus, pipeline, sources, tokenizer, writer
from drope_jax.perf import rounds

_EOS = "<|endoftext|>"
_BATCH = 8
_PREFETCH_BATCHES = 4
_WARM_UP_BATCHES = 20
_STREAMED_S = 8.0


def main() -> None:
  """Times every row in turn, and prints the table."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--tokens", type=int, default=1024, metavar="S")
  parser.add_argument("--vocab", type=int, default=8192, metavar="V")
  parser.add_argument("--copies", type=int, default=4, help="of the corpus")
  parser.add_argument("--json", metavar="FILE", help="also write the figures")
  parser.add_argument("--row", choices=_ROWS, help=argparse.SUPPRESS)
  parser.add_argument("--folder", help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.row:
    print(_ROWS[args.row](pathlib.Path(args.folder), args.tokens))
    return
  with tempfile.TemporaryDirectory() as folder:
    _prepare(pathlib.Path(folder), args)
    rates = rounds.in_turn(
      _ROWS,
      args.rounds,
      lambda name: rounds.in_process(name, "--folder", folder),
    )
  ratios = {
    name: rounds.ratio(rates[peer], rates[name]).median
    for name, peer in _PEERS.items()
  }
  print(f"{'':36}{'tokens/s':>12}{'ours / it':>11}")
  for name in _ROWS:
    ratio = f"{ratios[name]:11.2f}" if name in ratios else ""
    print(f"{name:36}{statistics.median(rates[name]):12,.0f}{ratio}")
  if args.json:
    figures = {"tokens_per_s": rates, "ratios": ratios} | vars(args)
    pathlib.Path(args.json).write_text(json.dumps(figures, indent=1) + "\n")


def _prepare(folder: pathlib.Path, args: argparse.Namespace) -> None:
  """Writes text.jsonl, two tokenizers, a store, and packed parquet rows."""
  import pyarrow.parquet

  texts = list(corpus.documents("train"))
  lines = (json.dumps({"text": text}) + "\n" for text in texts)
  (folder / "text.jsonl").write_text("".join(lines) * args.copies)
  bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
  bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
    add_prefix_space=False
  )
  bpe.train_from_iterator(
    texts,
    tokenizers.trainers.BpeTrainer(
      vocab_size=args.vocab,
      special_tokens=[_EOS],
      initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
      show_progress=False,
    ),
  )
  bpe.save(str(folder / "bpe.json"))
  tokenizer.train_sentencepiece(texts, args.vocab, str(folder / "sp.model"))
  store = writer.write(
    str(folder / "store"),
    [sources.File(str(folder / "text.jsonl"))],
    str(folder / "bpe.json"),
    workers=os.cpu_count(),
  )
  count = store.num_tokens // args.tokens
  rows = store.read(0, count * args.tokens).reshape(count, args.tokens)
  pyarrow.parquet.write_table(
    pyarrow.table({"input_ids": list(rows)}), folder / "packed.parquet"
  )


def _texts(folder: pathlib.Path) -> list[str]:
  with (folder / "text.jsonl").open() as lines:
    return [json.loads(line)["text"] for line in lines]


def _drope_tokenize(folder: pathlib.Path, name: str) -> float:
  out = tempfile.mkdtemp(dir=folder)
  start = time.perf_counter()
  store = writer.write(
    out,
    [sources.File(str(folder / "text.jsonl"))],
    str(folder / name),
    workers=os.cpu_count(),
  )
  return store.num_tokens / (time.perf_counter() - start)


def _encode_batch(folder: pathlib.Path, tokens: int) -> float:
  model = tokenizers.Tokenizer.from_file(str(folder / "bpe.json"))
  texts = _texts(folder)
  start = time.perf_counter()
  ids = [encoding.ids for encoding in model.encode_batch(texts)]
  return sum(map(len, ids)) / (time.perf_counter() - start)


def _encode_sentencepiece(folder: pathlib.Path, tokens: int) -> float:
  model = sentencepiece.SentencePieceProcessor(str(folder / "sp.model"))
  texts = _texts(folder)
  start = time.perf_counter()
  ids = model.encode(texts, num_threads=os.cpu_count())
  return sum(map(len, ids)) / (time.perf_counter() - start)


def _delivered(batches: Iterator[np.ndarray]) -> float:
  """Returns tokens a second, after a warm-up."""
  for inputs_BS in itertools.islice(batches, _WARM_UP_BATCHES):
    assert inputs_BS.shape[0] == _BATCH
  start, tokens = time.perf_counter(), 0
  while time.perf_counter() < start + _STREAMED_S:
    tokens += next(batches).size
  return tokens / (time.perf_counter() - start)


def _drope_batches(folder: pathlib.Path, tokens: int) -> float:
  batches = pipeline.batches(
    pipeline.DataConfig((str(folder / "store"),)),
    batch_size=_BATCH,
    context_tokens=tokens,
    seed=0,
    workers=2,
    prefetch_batches=_PREFETCH_BATCHES,
  )
  return _delivered(batch["inputs_BS"] for batch in batches)


def _datasets_text(folder: pathlib.Path, tokens: int) -> float:
  import datasets

  model = tokenizers.Tokenizer.from_file(str(folder / "bpe.json"))
  eos_id = model.token_to_id(_EOS)

  def pack(rows):
    encoded = model.encode_batch(rows["text"], add_special_tokens=False)
    ids = list(itertools.chain.from_iterable([*e.ids, eos_id] for e in encoded))
    whole = len(ids) // tokens * tokens
    return {"input_ids": np.array(ids[:whole]).reshape(-1, tokens)}

  streamed = datasets.load_dataset(
    "json",
    data_files=str(folder / "text.jsonl"),
    split="train",
    streaming=True,
  )
  packed = streamed.map(
    pack, batched=True, batch_size=100, remove_columns=["text"]
  )
  return _delivered(_datasets_batches(packed))


def _datasets_packed(folder: pathlib.Path, tokens: int) -> float:
  import datasets

  streamed = datasets.load_dataset(
    "parquet",
    data_files=str(folder / "packed.parquet"),
    split="train",
    streaming=True,
  )
  return _delivered(_datasets_batches(streamed))


def _datasets_batches(streamed) -> Iterator[np.ndarray]:
  shuffled = streamed.shuffle(seed=0, buffer_size=1000).with_format("numpy")
  while True:
    for batch in shuffled.iter(_BATCH, drop_last_batch=True):
      yield batch["input_ids"]


_ROWS: dict[str, Callable[[pathlib.Path, int], float]] = {
  "drope tokenize, tokenizer.json": lambda folder, tokens: _drope_tokenize(
    folder, "bpe.json"
  ),
  "tokenizers encode_batch": _encode_batch,
  "drope tokenize, sentencepiece": lambda folder, tokens: _drope_tokenize(
    folder, "sp.model"
  ),
  "sentencepiece encode": _encode_sentencepiece,
  "drope batches": _drope_batches,
  "datasets streaming text": _datasets_text,
  "datasets streaming packed tokens": _datasets_packed,
}
_PEERS = {
  "tokenizers encode_batch": "drope tokenize, tokenizer.json",
  "sentencepiece encode": "drope tokenize, sentencepiece",
  "datasets streaming text": "drope batches",
  "datasets streaming packed tokens": "drope batches",
}

if __name__ == "__main__":
  main()
