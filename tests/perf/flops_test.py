"""FLOPs by hand, and pairs of tokens counted one by one."""

import dataclasses

import pytest

from drope_jax.model.config import ModelConfig
from drope_jax.perf import flops
from drope_jax.positional import Nope, Pattern, Rope

LLAMA = ModelConfig(
  vocab_size=32_000,
  num_layers=32,
  width=4096,
  num_heads=32,
  num_kv_heads=32,
  head_dim=128,
  mlp_width=11_008,
  context_tokens=4096,
)


def test_a_llama_takes_six_a_weight_and_its_scores():
  embedding, norms = 32_000 * 4096, 65 * 4096
  weights = 6_738_415_616 - embedding - norms
  scores = 12 * 32 * 4096 * 4096
  got = flops.of_token(LLAMA, 4096)
  assert got.noncausal == 6 * weights + scores
  assert got.causal == 6 * weights + scores * 4097 / 8192


def test_what_is_frozen_takes_four_a_weight_and_adapters_six():
  whole = flops.of_token(LLAMA, 512)
  got = flops.of_token(LLAMA, 512, frozen=1000, adapters=10)
  for count, all_trained in zip(got, whole, strict=True):
    assert count == all_trained - 2 * 1000 + 6 * 10


def test_a_tied_table_counts_as_the_head_that_it_is():
  tied = dataclasses.replace(LLAMA, tied_embeddings=True)
  assert flops.of_token(tied, 512) == flops.of_token(LLAMA, 512)


def test_a_window_bounds_the_keys_that_are_seen():
  S, windows = 10, (4, None, 99, 1)
  config = dataclasses.replace(
    LLAMA,
    num_layers=4,
    positional=Pattern((Rope(), Nope(), Rope(), Nope()), windows),
  )
  seen = sum(
    1
    for window in windows
    for i in range(S)
    for j in range(i + 1)
    if i - j < (window or S)
  )
  got = flops.of_token(config, S)
  square = 12 * 32 * 128 * S * 4
  assert got.noncausal - got.causal == pytest.approx(
    square - 12 * 32 * 128 * seen / S
  )


def test_a_teacher_adds_its_forward_pass_alone():
  windowed = dataclasses.replace(
    LLAMA, positional=Pattern((Rope(), Nope()), (4, None))
  )
  got = flops.of_token(LLAMA, 512, teacher=windowed)
  for i, count in enumerate(flops.of_token(windowed, 512)):
    assert got[i] == flops.of_token(LLAMA, 512)[i] + count / 3


def test_reading_a_text_is_its_tokens_decoded_one_by_one_but_for_logits():
  S, head = 10, 2 * 32_000 * 4096
  config = dataclasses.replace(
    LLAMA, positional=Pattern((Rope(), Nope()), (4, None))
  )
  decoded = sum(flops.of_decoding(config, n) for n in range(1, S + 1))
  assert flops.of_prefill(config, S) == pytest.approx(decoded - (S - 1) * head)


@pytest.mark.parametrize(
  "kind,peak",
  [
    ("TPU v4", 275e12),
    ("TPU v5 lite", 197e12),
    ("TPU v5", 459e12),
    ("TPU v5p", 459e12),
    ("TPU v6 lite", 918e12),
    ("NVIDIA H100 80GB HBM3", 989e12),
    ("NVIDIA H100 PCIe", 756e12),
    ("NVIDIA A100-SXM4-80GB", 312e12),
    ("NVIDIA L40S", 362e12),
    ("NVIDIA L40", None),
    ("cpu", None),
  ],
)
def test_peaks_go_by_the_devices_kind(kind, peak):
  assert flops.peak(kind) == peak
