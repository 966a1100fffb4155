"""A sentencepiece BPE model as a tokenizer.json that encodes alike.

transformers' own conversion puts a space before every text and joins runs of
spaces, which not every model does.
"""

import sentencepiece
import tokenizers

_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # What sentencepiece writes for one.


def convert(
  model: sentencepiece.SentencePieceProcessor,
) -> tokenizers.Tokenizer:
  """Returns a tokenizer with the model's ids, which adds no BOS.

  The model's Unicode normalisation, if it has one, is not kept.
  """
  ids = range(model.vocab_size())
  pieces = [model.id_to_piece(i) for i in ids]
  tokenizer = tokenizers.Tokenizer(
    tokenizers.models.BPE(
      {piece: i for i, piece in enumerate(pieces)},
      _merges(model, pieces),
      unk_token=pieces[model.unk_id()],
      fuse_unk=True,
      byte_fallback=True,
    )
  )
  # The Python library does not say how a model treats spaces: it shows.
  prefixed = model.encode("a", out_type=str)[0].startswith(_SPACE)
  joined = model.encode("a  a") == model.encode("a a")
  steps = [tokenizers.normalizers.Replace(" ", _SPACE)]
  if prefixed:
    steps.insert(0, tokenizers.normalizers.Prepend(_SPACE))
  if joined:
    for runs, space in ((r"\A +| +\z", ""), (" {2,}", " ")):
      pattern = tokenizers.Regex(runs)
      steps.insert(0, tokenizers.normalizers.Replace(pattern, space))
  tokenizer.normalizer = tokenizers.normalizers.Sequence(steps)
  decoders = tokenizers.decoders
  tokenizer.decoder = decoders.Sequence(
    [
      decoders.Replace(_SPACE, " "),
      decoders.ByteFallback(),
      decoders.Fuse(),
      *([decoders.Strip(" ", 1, 0)] if prefixed else []),
    ]
  )
  controls = [piece for i, piece in enumerate(pieces) if model.is_control(i)]
  tokenizer.add_special_tokens(controls)
  return tokenizer


def _merges(
  model: sentencepiece.SentencePieceProcessor, pieces: list[str]
) -> list[tuple[str, str]]:
  """Returns every way to make a piece of two others, best score first."""
  rank = {piece: i for i, piece in enumerate(pieces)}
  found = []
  for i, piece in enumerate(pieces):
    if model.is_control(i) or model.is_unknown(i) or model.is_byte(i):
      continue
    for cut in range(1, len(piece)):
      left, right = piece[:cut], piece[cut:]
      if left in rank and right in rank:
        order = (-model.get_score(i), rank[left], rank[right])
        found.append((order, (left, right)))
  return [pair for _, pair in sorted(found)]
