"""The model as a whole: its schema, who reads whom, and its switches."""

import dataclasses
import functools

from flax import nnx
import jax
from jax.extend import core
import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax import attention, trees
from drope_jax.model import cache as caches
from drope_jax.model import layers, transformer
from drope_jax.model.config import LayerGroup
from drope_jax.positional import Alibi, Nope, Pattern, Rope, Yarn

# One of each, so that a layer that took its neighbor's shows.
MIXED = Pattern((Rope(), Nope(), Alibi(), Yarn(factor=4.0)), (4, None, 9, 1))


def _packed(lengths):
  return np.stack([np.repeat(np.arange(len(lengths)), lengths)] * 2)


PACKED_BS = _packed([12, 20])
ONE_DOCUMENT_BS = _packed([32])


# The parameter schema ---------------------------------------------------------

GOLDEN = {
  "embed/table": "VM",
  "final_norm/gain": "M",
  "head/kernel": "MV",
  "layers/attention/k/bias": "NK",
  "layers/attention/k/kernel": "NMK",
  "layers/attention/k_norm/gain": "NK",
  "layers/attention/o/kernel": "NQM",
  "layers/attention/q/bias": "NQ",
  "layers/attention/q/kernel": "NMQ",
  "layers/attention/q_norm/gain": "NQ",
  "layers/attention/v/bias": "NK",
  "layers/attention/v/kernel": "NMK",
  "layers/attention_norm/gain": "NM",
  "layers/mlp/down/kernel": "NIM",
  "layers/mlp/gate/kernel": "NMI",
  "layers/mlp/up/kernel": "NMI",
  "layers/mlp_norm/gain": "NM",
}


def _golden(config):
  """GOLDEN's letters as sizes; Q and K are all heads' channels together."""
  sizes = {
    "V": config.vocab_size,
    "M": config.width,
    "N": config.num_layers,
    "I": config.mlp_width,
    "Q": config.num_heads * config.head_dim,
    "K": config.num_kv_heads * config.head_dim,
  }
  return {p: tuple(sizes[a] for a in axes) for p, axes in GOLDEN.items()}


def _schema(config):
  flat = trees.flatten(transformer.param_shapes(config))
  assert {leaf.dtype for leaf in flat.values()} == {np.dtype("float32")}
  return {path: leaf.shape for path, leaf in flat.items()}


def test_a_schema_that_is_changed_changes_no_other(config):
  transformer.param_shapes(config)["layers"].clear()
  assert transformer.param_shapes(config)["layers"]


def test_the_schema_is_the_one_that_checkpoints_were_written_in(config):
  full = dataclasses.replace(config, qk_norm="qk")
  assert _schema(full) == _golden(full), (
    "The parameter schema is an on-disk format. If the change is meant, say in "
    "transformer's docstring what changed, read the old schema in checkpoint/, "
    f"and edit GOLDEN here. Now it is {sorted(_schema(full))}."
  )


def test_norms_after_a_layers_parts_have_gains_of_their_own(config):
  post, both = (
    _schema(dataclasses.replace(config, norm_placement=placement))
    for placement in ("post", "both")
  )
  gains = {
    f"layers/{part}_post_norm/gain": (config.num_layers, config.width)
    for part in ("attention", "mlp")
  }
  before = {"layers/attention_norm/gain", "layers/mlp_norm/gain"}
  pre = _schema(config)
  assert both == pre | gains
  assert post == {p: s for p, s in both.items() if p not in before}


@pytest.mark.parametrize(
  ("change", "absent"),
  [
    ({"tied_embeddings": True}, {"head/kernel"}),
    (
      {"qkv_bias": False},
      {f"layers/attention/{x}/bias" for x in "qkv"},
    ),
    ({"qk_norm": "q"}, {"layers/attention/k_norm/gain"}),
    ({"qk_norm": "k"}, {"layers/attention/q_norm/gain"}),
  ],
)
def test_what_a_model_does_without_is_absent(config, change, absent):
  full = dataclasses.replace(config, qk_norm="qk")
  lean = dataclasses.replace(full, **change)
  want = {p: s for p, s in _golden(full).items() if p not in absent}
  assert _schema(lean) == want


def test_norms_by_head_hold_one_gain_a_channel(config):
  config = dataclasses.replace(config, qk_norm="qk", qk_norm_scope="head")
  for name in ("q_norm", "k_norm"):
    shape = _schema(config)[f"layers/attention/{name}/gain"]
    assert shape == (config.num_layers, config.head_dim)


@pytest.mark.parametrize("scheme", [Nope(), Alibi(), MIXED])
def test_schemes_that_do_not_learn_have_no_parameters(config, scheme):
  config = dataclasses.replace(config, num_layers=4)
  dropped = dataclasses.replace(config, positional=scheme)
  assert _schema(dropped) == _schema(config)


@pytest.mark.parametrize(
  "change,complaint",
  [
    ({"qk_norm": "q"}, "missing layers/attention/q_norm/gain"),
    ({"tied_embeddings": True}, "unexpected head/kernel"),
    ({"num_kv_heads": 4}, r"k/kernel must be \(2, 24, 32\), got \(2, 24, 16\)"),
  ],
)
def test_params_of_another_config_are_refused(
  config, params, tokens_BS, change, complaint
):
  other = dataclasses.replace(config, **change)
  with pytest.raises(ValueError, match=complaint):
    transformer.forward(other, params, tokens_BS)


# The layer scan ---------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=0)
def _looped(config, params, tokens_BS):
  """The model as a Python loop over the NNX modules of its layers."""
  pattern, N = config.positional, config.num_layers
  (group,) = config.groups
  pos_BS = jnp.broadcast_to(jnp.arange(tokens_BS.shape[1]), tokens_BS.shape)
  x_BSM = params["embed"]["table"][tokens_BS]
  for n, scheme, window in zip(
    range(N), pattern.schemes, pattern.windows, strict=True
  ):
    graph, state = nnx.split(layers.Layer(config, group, rngs=nnx.Rngs(0)))
    own = jax.tree.map(lambda leaf_N, n=n: leaf_N[n], params["layers"])
    nnx.replace_by_pure_dict(state, own)
    layer = nnx.merge(graph, state)
    qkv = layer.attention.project(layer.attention_norm(x_BSM))
    q_BSHD, k_BSKD, v_BSKD = layer.attention.normalize(qkv)
    table_B2SD = scheme.rotation(pos_BS, config.head_dim)
    if table_B2SD is not None:
      cos_BS1D, sin_BS1D = table_B2SD[:, 0, :, None], table_B2SD[:, 1, :, None]
      q_BSHD = attention.rotate(q_BSHD, cos_BS1D, sin_BS1D)
      k_BSKD = attention.rotate(k_BSKD, cos_BS1D, sin_BS1D)
    out_BSHD = attention.attend(
      q_BSHD,
      k_BSKD,
      v_BSKD,
      mask=attention.Mask(window=window),
      slopes_H=scheme.bias_slopes(config.num_heads),
    )
    x_BSM += layer.attention.output(out_BSHD)
    x_BSM += layer.mlp(layer.mlp_norm(x_BSM))
  return transformer.unembed(config, params, x_BSM)


@pytest.fixture(scope="module")
def mixed(config, random_params):
  """Four layers that differ in every way, and their weights."""
  config = dataclasses.replace(
    config, num_layers=4, positional=MIXED, qk_norm="qk"
  )
  return config, random_params(config)


@pytest.mark.parametrize("backend", ["reference", "blockwise"])
def test_the_scan_is_a_loop_over_the_layers(mixed, forward, tokens_BS, backend):
  config, params = mixed
  got_BSV = forward(config, params, tokens_BS, backend=backend)
  # Sums in another order, over four layers of signals of order one.
  np.testing.assert_allclose(
    got_BSV, _looped(config, params, tokens_BS), atol=2e-5
  )


def test_groups_of_equal_layers_are_one_group(mixed, forward, tokens_BS):
  config, params = mixed
  grouped = dataclasses.replace(
    config, layer_groups=(LayerGroup(1), LayerGroup(3))
  )
  parts = {
    name: jax.tree.map(lambda x_N, part=part: x_N[part], params["layers"])
    for name, part in (("0", slice(1)), ("1", slice(1, None)))
  }
  split = params | {"layers": parts}
  np.testing.assert_allclose(
    forward(grouped, split, tokens_BS),
    forward(config, params, tokens_BS),
    atol=1e-5,
  )
  capture = functools.partial(
    transformer.hidden, capture=("outputs", "attention_inputs")
  )
  (_, got), (_, want) = (
    jax.jit(functools.partial(capture, c))(p, tokens_BS)
    for c, p in ((grouped, split), (config, params))
  )
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, atol=1e-5), got, want
  )


def test_a_group_begins_with_the_weights_it_has_among_all_layers(config):
  grouped = dataclasses.replace(
    config, layer_groups=(LayerGroup(1), LayerGroup(1))
  )
  key = jax.random.key(0)
  whole = transformer.init(config, key)["layers"]
  parts = transformer.init(grouped, key)["layers"]
  for index, part in parts.items():
    jax.tree.map(
      np.testing.assert_array_equal,
      part,
      jax.tree.map(lambda x_N, n=int(index): x_N[n : n + 1], whole),
    )


def test_a_narrower_mlp_is_one_whose_other_channels_write_nothing(
  config, random_params, forward, tokens_BS
):
  """A first layer of its own width, as mixtures of experts have it."""
  narrow = dataclasses.replace(
    config, layer_groups=(LayerGroup(1, mlp_width=8), LayerGroup(1))
  )
  params = random_params(narrow)
  first, second = params["layers"].values()
  assert first["mlp"]["up"]["kernel"].shape == (1, config.width, 8)
  missing = config.mlp_width - 8

  def padded(name, kernel_NIO):
    widths = [(0, 0), (0, 0), (0, 0)]
    widths[1 if name == "down" else 2] = (0, missing)
    return {"kernel": np.pad(kernel_NIO, widths)}

  first = first | {
    "mlp": {n: padded(n, x["kernel"]) for n, x in first["mlp"].items()}
  }
  layers = jax.tree.map(lambda *x_N: np.concatenate(x_N), first, second)
  np.testing.assert_allclose(
    forward(narrow, params, tokens_BS),
    forward(config, params | {"layers": layers}, tokens_BS),
    atol=1e-5,
  )


def test_the_eleventh_group_comes_after_the_tenth(config):
  """And not after the first, as its name does among strings."""
  groups = tuple(LayerGroup(1, mlp_width=8 + i) for i in range(12))
  config = dataclasses.replace(config, num_layers=12, layer_groups=groups)
  model = nnx.eval_shape(
    lambda: transformer.Transformer(config, rngs=nnx.Rngs(0))
  )
  graph, state = nnx.split(model)
  widths = [
    group.mlp.up.kernel.shape[-1] for group in nnx.merge(graph, state).stacks
  ]
  assert widths == list(range(8, 20))


def test_groups_continue_a_cache(config, random_params, forward, tokens_BS):
  config = dataclasses.replace(
    config, layer_groups=(LayerGroup(1, mlp_width=8), LayerGroup(1))
  )
  params = random_params(config)
  cache = caches.empty(config, 2, 32, jnp.float32)
  parts = []
  for tokens in np.split(tokens_BS, 2, axis=1):
    x_BSM, cache = transformer.forward_cached(config, params, tokens, cache)
    parts.append(transformer.unembed(config, params, x_BSM))
  np.testing.assert_allclose(
    np.concatenate(parts, axis=1),
    forward(config, params, tokens_BS),
    atol=1e-5,
  )


# Who reads whom ---------------------------------------------------------------


@pytest.mark.parametrize("segments_BS", [ONE_DOCUMENT_BS, PACKED_BS])
def test_logits_depend_on_exactly_the_tokens_before_in_their_document(
  config, params, tokens_BS, segments_BS
):
  """By gradients to the embedding; each token stands at one position."""
  config = dataclasses.replace(config, positional=Pattern((Rope(), Nope())))
  influence_ST = np.asarray(
    _influence(config, params, tokens_BS[:1], segments_BS[:1])
  )
  segment_S = segments_BS[0]
  visible_ST = np.tri(32, dtype=bool) & (segment_S[:, None] == segment_S)
  np.testing.assert_array_equal(influence_ST > 0, visible_ST)


@functools.partial(jax.jit, static_argnums=0)
def _influence(config, params, tokens_BS, segments_BS):
  """|d logits_i / d embedding_j|, as [S, T]."""

  def outputs_S(table):
    logits_BSV = transformer.forward(
      config,
      params | {"embed": {"table": table}},
      tokens_BS,
      segments_BS=segments_BS,
    )
    direction_V = jax.random.normal(jax.random.key(0), logits_BSV.shape[-1:])
    return logits_BSV[0] @ direction_V

  jacobian_SVM = jax.jacrev(outputs_S)(params["embed"]["table"])
  return jnp.abs(jacobian_SVM).sum(-1)[:, tokens_BS[0]]


def test_another_token_leaves_every_logit_before_it_bit_for_bit(
  mixed, forward, tokens_BS
):
  config, params = mixed
  other_BS = tokens_BS.copy()
  other_BS[:, 20] = tokens_BS[:, 19]
  for backend in ("reference", "blockwise"):
    one, other = (
      forward(config, params, x, backend=backend) for x in (tokens_BS, other_BS)
    )
    np.testing.assert_array_equal(one[:, :20], other[:, :20])
    assert np.all(one[:, 20] != other[:, 20])


@pytest.mark.parametrize("scheme", [Nope(), Rope()])
def test_a_packed_document_reads_as_it_does_alone(
  config, params, forward, tokens_BS, scheme
):
  config = dataclasses.replace(config, positional=scheme)
  packed_BSV, unmasked_BSV = (
    forward(config, params, tokens_BS, segments_BS=segments_BS)[:, 12:]
    for segments_BS in (PACKED_BS, ONE_DOCUMENT_BS)
  )
  # Alone: first in its row; what follows it, it cannot see.
  alone_BSV = forward(
    config,
    params,
    np.roll(tokens_BS, -12, axis=1),
    segments_BS=ONE_DOCUMENT_BS,
  )[:, :20]
  # Rope's angles at other positions differ in their last place.
  np.testing.assert_allclose(packed_BSV, alone_BSV, atol=5e-5)
  assert np.abs(unmasked_BSV - alone_BSV).max() > 0.1


# Switches ---------------------------------------------------------------------


def test_the_logit_scale_does_what_scaling_q_does(
  config, params, forward, tokens_BS
):
  q = params["layers"]["attention"]["q"]
  doubled = jax.tree.map(lambda x: 2 * x, q)
  louder = params | {
    "layers": params["layers"]
    | {"attention": params["layers"]["attention"] | {"q": doubled}}
  }
  plain = forward(config, params, tokens_BS, logit_scale=1.0)
  scaled = forward(config, params, tokens_BS, logit_scale=2.0)
  # A power of two passes through every rounding.
  np.testing.assert_array_equal(
    scaled, forward(config, louder, tokens_BS, logit_scale=1.0)
  )
  assert np.abs(scaled - plain).max() > 0.1
  # The configuration's own scale is the same, where none is given.
  in_config = dataclasses.replace(config, logit_scale=2.0)
  np.testing.assert_allclose(
    forward(in_config, params, tokens_BS), scaled, atol=1e-5
  )


def test_the_largest_logit_is_that_of_all_layers_and_heads(
  config, params, tokens_BS
):
  qkv = transformer.attention_inputs(config, params, tokens_BS)
  S, groups = tokens_BS.shape[1], config.num_heads // config.num_kv_heads
  k_NBSHD = np.repeat(qkv.k_BSKD, groups, axis=3)
  logits = np.einsum("nbshd,nbthd->nbhst", qkv.q_BSHD, k_NBSHD)
  visible_SS = np.tril(np.ones((S, S), bool))
  want = logits[..., visible_SS].max() * config.head_dim**-0.5
  x_BSM, captured = transformer.hidden(
    config, params, tokens_BS, backend="blockwise", capture=("max_logit",)
  )
  assert captured["max_logit"].shape == (config.num_layers,)
  assert captured["max_logit"].max() == pytest.approx(want, rel=1e-5)
  plain = transformer.hidden(config, params, tokens_BS, backend="blockwise")
  np.testing.assert_allclose(x_BSM, plain, atol=1e-6)
  with pytest.raises(ValueError, match="statistics needs a backend"):
    transformer.hidden(
      config, params, tokens_BS, backend="xla", capture=("max_logit",)
    )


@pytest.mark.parametrize("join_sequences", [False, True])
def test_a_layers_output_is_the_last_of_a_model_that_ends_with_it(
  config, params, tokens_BS, join_sequences
):
  x_BSM, captured = transformer.hidden(
    config,
    params,
    tokens_BS,
    join_sequences=join_sequences,
    capture=("outputs",),
  )
  assert captured.keys() == {"outputs"}
  np.testing.assert_array_equal(captured["outputs"][-1], x_BSM)
  first = params | {"layers": jax.tree.map(lambda x: x[:1], params["layers"])}
  shallow = dataclasses.replace(config, num_layers=1)
  want_BSM = transformer.hidden(shallow, first, tokens_BS)
  np.testing.assert_allclose(captured["outputs"][0], want_BSM, atol=1e-5)


def test_a_soft_cap_bounds_the_logits(config, params, tokens_BS):
  def largest_N(cap):
    _, captured = transformer.hidden(
      dataclasses.replace(config, logit_soft_cap=cap, logit_scale=3.0),
      params,
      tokens_BS,
      capture=("max_logit",),
    )
    return captured["max_logit"]

  plain_N, capped_N = largest_N(None), largest_N(2.0)
  assert plain_N[0] > 2.5
  assert np.all(capped_N < 2)
  # What later layers read, the cap has changed.
  np.testing.assert_allclose(
    capped_N[0], 2 * np.tanh(plain_N[0] / 2), rtol=1e-5
  )


def test_a_cap_of_the_final_logits_bounds_them(config, params, tokens_BS):
  plain_BSV = 10 * transformer.forward(config, params, tokens_BS)
  louder = params | {"final_norm": {"gain": 10 * params["final_norm"]["gain"]}}
  capped = dataclasses.replace(config, final_logit_soft_cap=2.0)
  got_BSV = transformer.forward(capped, louder, tokens_BS)
  assert np.abs(plain_BSV).max() > 3
  np.testing.assert_allclose(got_BSV, 2 * np.tanh(plain_BSV / 2), atol=1e-5)


def test_training_multiplies_by_what_makes_scaled_logits(
  config, params, tokens_BS
):
  scaled = dataclasses.replace(config, final_logit_scale=0.3)
  plain_BSV = transformer.forward(config, params, tokens_BS)
  got_BSV = transformer.forward(scaled, params, tokens_BS)
  np.testing.assert_allclose(got_BSV, 0.3 * plain_BSV, rtol=1e-5, atol=1e-6)
  params = jax.tree.map(jnp.asarray, params)
  x_BSM = transformer.hidden(scaled, params, tokens_BS)
  np.testing.assert_allclose(
    jnp.matmul(*transformer.head(scaled, params, x_BSM)), got_BSV, atol=1e-5
  )


def test_the_scale_of_logits_is_not_rounded_to_the_states_dtype(
  config, params, tokens_BS
):
  params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), params)
  x_BSM = transformer.hidden(config, params, tokens_BS)
  plain_BSM, _ = transformer.head(config, params, x_BSM)
  scaled = dataclasses.replace(config, final_logit_scale=0.3)
  got_BSM, _ = transformer.head(scaled, params, x_BSM)
  assert got_BSM.dtype == jnp.bfloat16
  want_BSM = np.float32(0.3) * np.asarray(plain_BSM, np.float32)
  np.testing.assert_array_equal(got_BSM, jnp.asarray(want_BSM, jnp.bfloat16))


def test_another_capture_is_refused(config, params, tokens_BS):
  message = "projections, attention_inputs, .*, got logits. Name some"
  with pytest.raises(ValueError, match=message):
    transformer.hidden(config, params, tokens_BS, capture=("logits",))


def test_weights_are_captured_with_a_reader_alone(config, params, tokens_BS):
  for options in ({"capture": ("weights",)}, {"reader": object()}):
    with pytest.raises(ValueError, match="Give both, or neither"):
      transformer.hidden(config, params, tokens_BS, **options)


def test_how_layers_are_compiled_changes_no_gradient(config, params, tokens_BS):
  def traced(**options):
    def loss(params):
      return transformer.forward(config, params, tokens_BS, **options).var()

    return jax.jit(jax.grad(loss)).trace(params)

  plain, recomputing = traced(), traced(remat="full")
  unrolled, joined = traced(unroll=True), traced(join_sequences=True)
  one_axis = f"f32[{tokens_BS.size},{config.width}]"
  assert tokens_BS.shape[0] > 1
  assert one_axis in str(joined.jaxpr)
  assert one_axis not in str(plain.jaxpr)
  assert "remat" in str(recomputing.jaxpr)
  assert "remat" not in str(plain.jaxpr)
  assert "while" in plain.lower().as_text()
  assert "while" not in unrolled.lower().as_text()
  kept, *others = (
    trees.flatten(program.lower().compile()(params))
    for program in (plain, recomputing, unrolled, joined)
  )
  for path, gradient in kept.items():
    # The same sums, fused in another way.
    atol = 1e-5 * np.abs(gradient).max()
    for other in others:
      np.testing.assert_allclose(other[path], gradient, atol=atol, err_msg=path)


def _matrix_products(jaxpr):
  """Yields the operands' dtypes of each matrix product, however nested."""
  for equation in jaxpr.eqns:
    if equation.primitive.name == "dot_general":
      yield {str(operand.aval.dtype) for operand in equation.invars}
    for inner in core.jaxprs_in_params(equation.params):
      yield from _matrix_products(inner)


def test_bfloat16_weights_compute_in_bfloat16(
  config, params, forward, tokens_BS
):
  low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  jaxpr = jax.make_jaxpr(functools.partial(transformer.forward, config))(
    low, tokens_BS
  ).jaxpr
  products = list(_matrix_products(jaxpr))
  assert len(products) == 10  # Seven kernels, two of attention, the head.
  assert all(dtypes == {"bfloat16"} for dtypes in products)

  high = jax.tree.map(lambda x: x.astype(jnp.float32), low)
  got_BSV = forward(config, low, tokens_BS)
  want_BSV = forward(config, high, tokens_BS)
  assert got_BSV.dtype == want_BSV.dtype == jnp.float32
  # Some 36 roundings on the way, of up to half an eps, add as a random walk.
  error, eps = np.std(got_BSV - want_BSV), float(jnp.finfo(jnp.bfloat16).eps)
  assert 0 < error < 3 * eps * np.std(want_BSV)
