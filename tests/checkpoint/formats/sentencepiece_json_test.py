"""The tokenizer.json of a sentencepiece model encodes as the model does."""

import io
import itertools
import random

import pytest
import sentencepiece
import tokenizers

from drope_jax.checkpoint.formats import sentencepiece_json
from drope_jax.data import corpus

LINES = [
  line[at : at + 200]
  for document in itertools.islice(corpus.documents("train"), 12)
  for line in document.split("\n")
  for at in range(0, len(line), 200)
][:500]
# Without these `<`, `>` and `=` are characters that a model does not know.
SYMBOLS = ["x <sep> y = z / w"] * 4

ATOMS = (
  *(" ", "  ", "   ", "\n", "\r", "\t", "\u00a0", "\u3000", "▁", "▁▁"),
  *("<s>", "</s>", "<unk>", "<0x41>", "<0x0A>", "/s>", "<", "==", "===="),
  *("<sep>", "<sep>2", "<cls>", "<pad>", "the", "aaaaa", "1987", "-", "..."),
  *(" " * 17, " " * 40, "=" * 24),
  *("３", "①", "ﬁ", "ＡＢＣ", "½", "™", "é", "Å", "ß", "İ", "漢字", "が"),
  *("한국어", "Привет", "مَرحَبًا", "क्षि", "😀", "👩‍👩‍👧", "🇩🇪", "\u200b"),
  # Decomposed letters, as macOS writes file names, and marks on others.
  *("e\u0301", "e\u0323\u0302", "é\u0323", "①\u0301", "ﬁ\u0301", "\u0301"),
  *("か\u3099", "ｶﾞ", "\u1112\u1161\u11ab", "가\u11ab", "\u00a0\u200d"),
  *("\r\n", "<\u0338", "Α\u0345", "ب\u0651\u064e"),
  *("\x00", "\x01", "\x7f", "\ufeff", "\ufffd"),
)


def _texts():
  """Texts of every kind, the same in each run."""
  draw = random.Random(0)

  def mixed():
    return "".join(draw.choices(ATOMS, k=draw.randint(2, 8)))

  def between_words():
    words = draw.choice(LINES).split(" ")
    at = draw.randint(0, len(words))
    parts = (*words[:at][-6:], mixed(), *words[at:][:6])
    return "".join(f"{part}{draw.choice(['', ' '])}" for part in parts)

  def letters():
    return "".join(draw.choices(" \n\tabet<>s/p▁.0xA4", k=draw.randint(1, 20)))

  makers = (mixed, between_words, letters)
  made = [draw.choice(makers)() for _ in range(1000)]
  return ["", *ATOMS, *made, *LINES[:50], " ".join(LINES)[:20_000]]


TEXTS = _texts()


def _train(lines, vocab_size=500, **options):
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.Train(
    sentence_iterator=iter(lines),
    model_writer=model,
    vocab_size=vocab_size,
    num_threads=1,
    minloglevel=2,
    **options,
  )
  return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def _differ(model):
  """Returns the texts that the tokenizer.json encodes otherwise."""
  tokenizer = sentencepiece_json.convert(model)
  tokenizer.encode_special_tokens = True
  got = tokenizer.encode_batch_fast(TEXTS, add_special_tokens=False)
  want = model.encode(TEXTS)
  return [
    text
    for text, one, other in zip(TEXTS, got, want, strict=True)
    if one.ids != other
  ]


IDENTITY = {"normalization_rule_name": "identity"}
BYTES = {"byte_fallback": True, "vocab_size": 800}
AS_IT_IS = IDENTITY | {"remove_extra_whitespaces": False}
USERS = {"user_defined_symbols": ["<sep>", "<sep>2", "<cls>", "the", "=="]}
CONTROLS = {"control_symbols": ["<pad>"]}
BPE = {"model_type": "bpe"}
CHAR = {"model_type": "char", "vocab_size": 150}


@pytest.mark.parametrize(
  "options",
  [
    {},
    BYTES | CONTROLS,
    IDENTITY | {"treat_whitespace_as_suffix": True},
    AS_IT_IS | {"allow_whitespace_only_pieces": True},
    IDENTITY | BYTES | USERS,
    {"normalization_rule_name": "nmt_nfkc_cf", "add_dummy_prefix": False},
    BPE,
    BPE | IDENTITY | {"treat_whitespace_as_suffix": True},
    BPE | AS_IT_IS | BYTES | {"split_digits": True},
    BPE | USERS | CONTROLS,
    BPE | AS_IT_IS | BYTES | USERS | {"add_dummy_prefix": False},
    CHAR,
    CHAR | IDENTITY | USERS,
  ],
  ids=lambda options: " ".join(map(str, options.values())) or "default",
)
def test_each_kind_encodes_as_sentencepiece(options):
  assert not _differ(_train([*LINES, *SYMBOLS], **options))


@pytest.mark.parametrize("options", [IDENTITY, IDENTITY | BYTES])
def test_names_of_symbols_are_text_though_a_character_is_unknown(options):
  model = _train(LINES, **options)
  assert model.piece_to_id("<") == model.unk_id()
  assert not _differ(model)


def test_an_added_token_may_give_the_first_piece_a_name():
  model = _train(LINES)
  names = {0: "<nothing>", 2: "</s>", 500: "<after>"}
  added = {
    i: tokenizers.AddedToken(name, special=True) for i, name in names.items()
  }
  converted = sentencepiece_json.convert(model, added)
  assert {i: converted.id_to_token(i) for i in names} == names
  with pytest.raises(ValueError, match="must have an id of its own.*got -1"):
    sentencepiece_json.convert(model, {-1: tokenizers.AddedToken("<x>")})


def test_our_own_model_and_llamas(test_data):
  plain = "A b, c 1."
  for path in (
    corpus.tokenizer_path(),
    test_data / "stories15M" / "tokenizer.model",
    test_data / "stories260K" / "tok512.model",
  ):
    model = sentencepiece.SentencePieceProcessor(str(path))
    assert not _differ(model)
    tokenizer = sentencepiece_json.convert(model)
    assert tokenizer.decode(tokenizer.encode(plain).ids) == plain
    assert tokenizer.token_to_id("</s>") == model.eos_id()


def _edited(model, edit):
  proto = sentencepiece_json.protos.ModelProto()
  proto.ParseFromString(model.serialized_model_proto())
  edit(proto)
  return sentencepiece.SentencePieceProcessor(
    model_proto=proto.SerializeToString()
  )


def _score_alike(proto):
  for piece in proto.pieces:
    piece.score = 0.0


def _leave_one_out(proto):
  piece = next(
    p for p in proto.pieces if len(p.piece) > 2 and p.type == p.NORMAL
  )
  piece.type = piece.UNUSED


def _forget_a_character(proto):
  piece = next(p for p in proto.pieces if p.piece == "e")
  piece.piece = "\N{WHALE}"


@pytest.mark.parametrize(
  ("options", "edit", "says"),
  [
    ({"model_type": "word"}, None, "got WORD"),
    (BPE, _score_alike, "of the same score"),
    (BPE, _leave_one_out, "an unused piece that merges make"),
    (BPE, _forget_a_character, "made of a character that is no piece"),
    (BPE | {"user_defined_symbols": ["ＡＢ"]}, None, "got 'ＡＢ'"),
    (
      IDENTITY | {"unk_piece": "<\N{WHALE}>", "character_coverage": 0.98},
      None,
      "got '<\N{WHALE}>'",
    ),
  ],
)
def test_what_the_library_cannot_do_is_refused(options, edit, says):
  model = _train(LINES, **options)
  with pytest.raises(ValueError, match=says):
    sentencepiece_json.convert(_edited(model, edit) if edit else model)
