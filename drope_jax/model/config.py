"""The shape of a model."""

import dataclasses
import itertools
import math

from drope_jax.positional import Pattern, Rope, Scheme
from drope_jax.positional import pattern as patterns

QK_NORMS = ("none", "q", "k", "qk")
QK_NORM_SCOPES = ("joint", "head")
NORM_KINDS = ("rms", "layer")
NORM_PLACEMENTS = ("pre", "post", "both")
MLP_ACTIVATIONS = ("silu", "gelu_tanh", "gelu")

MOST_LAYERS = 10_000
"""The most that a model may have; each takes memory before it has weights."""

_MOST = 2**31 - 1  # Indices are int32.

_CHOICES = {
  "qk_norm": QK_NORMS,
  "qk_norm_scope": QK_NORM_SCOPES,
  "norm_kind": NORM_KINDS,
  "norm_placement": NORM_PLACEMENTS,
  "mlp_activation": MLP_ACTIVATIONS,
}


@dataclasses.dataclass(frozen=True)
class LayerGroup:
  """Consecutive layers of one kind; a field that is None is the model's.

  Attributes:
    num_layers: of the group.
    mlp_width: I.
    norm_placement, mlp_activation: as in `ModelConfig`.
  """

  num_layers: int
  mlp_width: int | None = None
  norm_placement: str | None = None
  mlp_activation: str | None = None

  def __post_init__(self):
    for name in ("num_layers", "mlp_width"):
      value = getattr(self, name)
      if value is not None and not 1 <= value <= _MOST:
        raise ValueError(
          f"LayerGroup.{name} must be at least 1 and at most {_MOST}, got "
          f"{value}. Set it to the model's."
        )
    for name in ("norm_placement", "mlp_activation"):
      if getattr(self, name) is not None:
        _require_choice(self, name)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """A decoder-only transformer; each choice is its own field.

  Attributes:
    vocab_size: V.
    num_layers: N.
    width: M, of the residual stream.
    num_heads: H, query heads.
    num_kv_heads: K, key/value heads; divides H.
    head_dim: D; need not be width / num_heads.
    mlp_width: I, of the MLP's hidden layer.
    context_tokens: the context length that the weights were trained at. Length
      factors are multiples of it.
    positional: a scheme for all layers, or a `Pattern`.
    qk_norm: which of q and k pass through an RMSNorm: none, q, k or qk.
    qk_norm_scope: "joint", one norm over all heads, before they are split (the
      DroPE paper, OLMo 2); "head", one over each head's channels (Qwen3).
    norm_kind: of a layer's norms and the last one: "rms" (RMSNorm: Llama), or
      "layer" (LayerNorm with a bias: GPT-2).
    norm_placement: where a layer's norms are: "pre", on what attention and the
      MLP read (Llama); "post", on what they add to the residual stream (OLMo
      2); "both" (Gemma 2).
    parallel_residual: whether attention and the MLP of a layer read the same
      residual stream (GPT-NeoX); else the MLP reads attention's output too.
    mlp_activation: of the MLP's gate: "silu" (SwiGLU: Llama), "gelu_tanh"
      (GeGLU with the approximation by tanh: Gemma) or "gelu" (exact).
    gated_mlp: whether the MLP has a gate; without one, the activation is that
      of its hidden layer (GPT-2).
    qkv_bias: whether q, k and v have biases.
    o_bias: whether the projection of attention's output has one.
    mlp_bias: whether the MLP's projections have biases.
    tied_embeddings: whether the output head is the embedding, transposed.
    embedding_scale: multiplies the embeddings that the first layer reads, in
      their dtype (sqrt(M): Gemma), but not the head, where the two are tied.
    residual_scale: multiplies what attention and the MLP add to the residual
      stream (Granite).
    final_logit_scale: multiplies the logits over the vocabulary, before their
      cap (Granite).
    norm_eps: added to the mean square, or the variance, in every norm.
    norm_gain_offset: added to the gain of every norm (1: Gemma, whose gains are
      stored as differences from 1).
    logit_scale: multiplies the attention logits, besides 1 / sqrt(D).
    logit_scale_slope: c. Logits of a sequence of s * context_tokens, s > 1, are
      also multiplied by 1 + c ln s. None: no slope was fitted.
    logit_soft_cap: bounds the attention logits, as cap * tanh(logits / cap)
      (Gemma 2); None: nothing does.
    final_logit_soft_cap: bounds the logits over the vocabulary likewise; None:
      nothing does.
    layer_groups: of layers that differ, first layer first; () where all layers
      are of one kind.
  """

  vocab_size: int
  num_layers: int
  width: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  mlp_width: int
  context_tokens: int
  positional: Scheme | Pattern = Rope()
  qk_norm: str = "none"
  qk_norm_scope: str = "joint"
  qkv_bias: bool = False
  tied_embeddings: bool = False
  norm_eps: float = 1e-5
  logit_scale: float = 1.0
  logit_scale_slope: float | None = None
  norm_placement: str = "pre"
  logit_soft_cap: float | None = None
  mlp_activation: str = "silu"
  embedding_scale: float = 1.0
  layer_groups: tuple[LayerGroup, ...] = ()
  norm_gain_offset: float = 0.0
  final_logit_soft_cap: float | None = None
  norm_kind: str = "rms"
  gated_mlp: bool = True
  o_bias: bool = False
  mlp_bias: bool = False
  parallel_residual: bool = False
  residual_scale: float = 1.0
  final_logit_scale: float = 1.0

  def __post_init__(self):
    for name in (
      "vocab_size",
      "num_layers",
      "width",
      "num_heads",
      "num_kv_heads",
      "head_dim",
      "mlp_width",
      "context_tokens",
    ):
      value = getattr(self, name)
      most = MOST_LAYERS if name == "num_layers" else _MOST
      if not 1 <= value <= most:
        bound = "at least 1" if value < 1 else f"at most {most}"
        raise ValueError(
          f"ModelConfig.{name} must be {bound}, got {value}. Set it to the "
          "model's."
        )
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        "ModelConfig.num_kv_heads must divide num_heads, so that key/value "
        f"heads serve equal groups, got {self.num_heads} heads and "
        f"{self.num_kv_heads} key/value heads. Change one of them."
      )
    for name in (
      "norm_eps",
      "logit_scale",
      "logit_soft_cap",
      "final_logit_soft_cap",
      "embedding_scale",
      "residual_scale",
      "final_logit_scale",
    ):
      value = getattr(self, name)
      if value is not None and not 0 < value < math.inf:
        raise ValueError(
          f"ModelConfig.{name} must be finite and above 0, got {value}. Set it "
          "to the model's."
        )
    if not math.isfinite(self.norm_gain_offset):
      raise ValueError(
        "ModelConfig.norm_gain_offset must be finite, got "
        f"{self.norm_gain_offset}. Set it to the model's."
      )
    if not 0 <= (self.logit_scale_slope or 0) < math.inf:
      raise ValueError(
        "ModelConfig.logit_scale_slope must be finite and at least 0, got "
        f"{self.logit_scale_slope}. Set it to the slope that was fitted."
      )
    for name in _CHOICES:
      _require_choice(self, name)
    plan = patterns.layer_plan(self.positional, self.num_layers)
    for scheme in plan.schemes:
      scheme.check(self.head_dim)
    if plan.embedder is not None:
      plan.embedder.at(self.context_tokens)  # It refuses what is beyond it.
    layers = [group.num_layers for group in self.layer_groups]
    if layers and (len(layers) < 2 or sum(layers) != self.num_layers):
      raise ValueError(
        "ModelConfig.layer_groups must be none, or two or more that add up to "
        f"num_layers, got {layers} for {self.num_layers}. Change one of them."
      )

  @property
  def groups(self) -> tuple[LayerGroup, ...]:
    """The groups of layers, first layer first, with every field filled in."""
    return tuple(
      LayerGroup(
        group.num_layers,
        self.mlp_width if group.mlp_width is None else group.mlp_width,
        group.norm_placement or self.norm_placement,
        group.mlp_activation or self.mlp_activation,
      )
      for group in self.layer_groups or (LayerGroup(self.num_layers),)
    )

  @property
  def group_slices(self) -> tuple[slice, ...]:
    """The layers of each group, among all."""
    stops = [*itertools.accumulate(group.num_layers for group in self.groups)]
    return tuple(map(slice, [0, *stops], stops))

  def logit_scale_at(self, tokens: int) -> float:
    """Returns the logit scale of a sequence of so many tokens.

    Source: the DroPE paper (arXiv:2512.12167): beta(s) = 1 + c ln s.
    """
    factor, slope = tokens / self.context_tokens, self.logit_scale_slope or 0
    return self.logit_scale * (1 + slope * math.log(max(factor, 1)))

  @property
  def norms_q(self) -> bool:
    return "q" in self.qk_norm

  @property
  def norms_k(self) -> bool:
    return "k" in self.qk_norm


def _require_choice(config: ModelConfig | LayerGroup, name: str) -> None:
  value, choices = getattr(config, name), _CHOICES[name]
  if value not in choices:
    raise ValueError(
      f"{type(config).__name__}.{name} must be one of {', '.join(choices)}, "
      f"got {value!r}. Name one of these."
    )
