"""What holds of every attention backend: the formula, and who sees whom."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drope_jax import attention
from drope_jax.attention import BACKENDS, Mask, Need, Rotation, Stats

# 150 queries: two tiles of a kernel, one of them ragged; for blockwise, a strip
# of 128 in four iterations, and a strip of 22.
B, S, D = 2, 150, 8
SLOPES_H = np.array([0.5, 0.25, 0.0, 0.01], np.float32)
BIAS_HT = np.random.default_rng(2).normal(size=(4, 230)).astype(np.float32)


def _packed(*rows):
  """Segment ids from the lengths of each row's documents."""
  return np.stack(
    [np.repeat(np.arange(len(lengths)), lengths) for lengths in rows]
  ).astype(np.int32)


PACKED_BS = _packed((50, 80, 20), (7, 120, 23))
# The last document's queries find no keys of theirs.
LONELY_BT = np.where(_packed((50, 80, 20), (7, 120, 23)) == 2, -1, PACKED_BS)


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
  """A call of `attend`; `traced` reaches it through jit, `static` does not."""

  needs: frozenset[Need] = frozenset()
  H: int = 4
  K: int = 2
  T: int = S
  dtype: str = "float32"
  traced: dict[str, Any] = dataclasses.field(default_factory=dict)
  static: dict[str, Any] = dataclasses.field(default_factory=dict)

  def arguments(self, traced: dict[str, Any]) -> dict[str, Any]:
    given = {**self.static, **traced}
    mask = {name: given.pop(name) for name in Mask._fields if name in given}
    return {"mask": Mask(**mask), **given}

  def inputs(self, backend: str) -> list[jax.Array]:
    """Returns q_BSHD, k_BTKD, v_BTKD, and the cotangent of the output."""
    rng = np.random.default_rng(0)
    shapes = [(S, self.H), (self.T, self.K), (self.T, self.K), (S, self.H)]
    takes_any = Need.FLOAT32 in BACKENDS[backend].honors
    dtype = self.dtype if takes_any else "bfloat16"
    return [
      jnp.asarray(rng.normal(size=(B, *shape, D)), dtype) for shape in shapes
    ]


PACKED = "MQA, packed documents, a window, and queries without keys"
PLAIN = "MHA"
CASES = {
  PLAIN: Case(H=2),
  PACKED: Case(
    frozenset({Need.SEGMENTS, Need.WINDOW}),
    K=1,
    traced={"q_segment_BS": PACKED_BS, "k_segment_BT": LONELY_BT},
    static={"window": 37},
  ),
  "GQA in bfloat16, a scale for each query, a window": Case(
    frozenset({Need.WINDOW}),
    dtype="bfloat16",
    static={"window": 140},
    traced={
      "logit_scale": np.linspace(0.5, 3, B * S, dtype=np.float32).reshape(B, S)
    },
  ),
  "GQA, a soft cap, more keys than queries": Case(
    frozenset({Need.SOFT_CAP}), T=170, static={"soft_cap": 1.5}
  ),
  "MHA, ALiBi, a cache read by rows of other lengths, a traced window": Case(
    frozenset({Need.SLOPES, Need.OFFSET, Need.TRACED_WINDOW, Need.WINDOW}),
    K=4,
    T=220,
    traced={
      "slopes_H": SLOPES_H,
      "offset_B": np.array([60, 3], np.int32),
      "window": np.int32(90),
    },
  ),
  "GQA, a bias by distance, a cache read by rows of other lengths": Case(
    frozenset({Need.BIAS, Need.OFFSET}),
    T=220,
    traced={"bias_HT": BIAS_HT, "offset_B": np.array([60, 3], np.int32)},
  ),
  "MQA in bfloat16, both biases, a scale for each query, a window": Case(
    frozenset({Need.BIAS, Need.SLOPES, Need.WINDOW}),
    K=1,
    dtype="bfloat16",
    static={"window": 90},
    traced={
      "bias_HT": BIAS_HT,
      "slopes_H": SLOPES_H,
      "logit_scale": np.linspace(0.5, 3, B * S, dtype=np.float32).reshape(B, S),
    },
  ),
  "everything": Case(
    frozenset(Need) - {Need.FLOAT32, Need.ROTATION, Need.BIAS},
    T=170,
    traced={
      "slopes_H": SLOPES_H,
      "offset_B": np.array([20, 7], np.int32),
      "window": np.int32(60),
      "q_segment_BS": PACKED_BS,
      "k_segment_BT": _packed((70, 80, 20), (14, 120, 36)),
      "logit_scale": np.float32(2.0),
    },
    static={"soft_cap": 1.5},
  ),
}


def _formula(
  inputs, mask, logit_scale=1.0, slopes_H=None, bias_HT=None, soft_cap=None
):
  """Returns out, stats, and the gradients of q, k, v, by hand in float64."""
  q_BSHD, k_BTHD, v_BTHD, d_out_BSHD = (np.asarray(x, float) for x in inputs)
  H, K = q_BSHD.shape[2], k_BTHD.shape[2]
  k_BTHD, v_BTHD = (np.repeat(x, H // K, axis=2) for x in (k_BTHD, v_BTHD))
  queries, keys = q_BSHD.shape[1], k_BTHD.shape[1]
  first_B11 = np.zeros((B, 1, 1), int)
  if mask.offset_B is not None:
    first_B11 = np.asarray(mask.offset_B)[:, None, None]
  back_BST = first_B11 + np.arange(queries)[:, None] - np.arange(keys)
  visible_BST = back_BST >= 0
  if mask.window is not None:
    visible_BST &= back_BST < mask.window
  if mask.q_segment_BS is not None:
    visible_BST &= mask.q_segment_BS[:, :, None] == mask.k_segment_BT[:, None]
  scale = np.broadcast_to(np.asarray(logit_scale, float), (B, queries))
  scale_BS11 = scale[..., None, None] / np.sqrt(D)
  raw_BHST = np.einsum("bshd,bthd->bhst", scale_BS11 * q_BSHD, k_BTHD)
  logits_BHST, slope = raw_BHST, 1.0
  if soft_cap is not None:
    logits_BHST = soft_cap * np.tanh(raw_BHST / soft_cap)
    slope = 1 - np.square(logits_BHST / soft_cap)
  if slopes_H is not None:
    logits_BHST = logits_BHST - slopes_H[:, None, None] * back_BST[:, None]
  if bias_HT is not None:
    bias_HBST = bias_HT[:, np.maximum(back_BST, 0)]
    logits_BHST = logits_BHST + np.moveaxis(bias_HBST, 0, 1)
  logits_BHST = np.where(visible_BST[:, None], logits_BHST, -np.inf)
  max_BHS = logits_BHST.max(-1)
  shift_BHS1 = np.maximum(max_BHS, -1e300)[..., None]
  weights_BHST = np.exp(logits_BHST - shift_BHS1)
  sum_BHS1 = weights_BHST.sum(-1, keepdims=True)
  weights_BHST /= np.where(sum_BHS1 > 0, sum_BHS1, 1)
  with np.errstate(divide="ignore"):
    lse_BHS = (shift_BHS1 + np.log(sum_BHS1))[..., 0]
  d_weights_BHST = np.einsum("bshd,bthd->bhst", d_out_BSHD, v_BTHD)
  mean_BHS1 = (weights_BHST * d_weights_BHST).sum(-1, keepdims=True)
  d_raw_BHST = weights_BHST * (d_weights_BHST - mean_BHS1) * slope
  d_k_BTHD = np.einsum("bhst,bshd->bthd", d_raw_BHST, scale_BS11 * q_BSHD)
  d_v_BTHD = np.einsum("bhst,bshd->bthd", weights_BHST, d_out_BSHD)
  gradients = (
    scale_BS11 * np.einsum("bhst,bthd->bshd", d_raw_BHST, k_BTHD),
    *(x.reshape(B, keys, K, -1, D).sum(3) for x in (d_k_BTHD, d_v_BTHD)),
  )
  out_BSHD = np.einsum("bhst,bthd->bshd", weights_BHST, v_BTHD)
  return out_BSHD, Stats(lse_BHS, max_BHS), gradients


@functools.cache
def _compiled(backend, name):
  """Returns a function from inputs and traced arguments to their results."""
  case, with_stats = CASES[name], Need.STATS in BACKENDS[backend].honors

  # Compiling takes longer than running.
  @functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
  )
  def run(inputs, traced):
    def attend(*qkv):
      result = attention.attend(
        *qkv,
        **case.arguments(traced),
        with_stats=with_stats,
        backend=backend,
      )
      return result if with_stats else (result, None)

    out_BSHD, pull_back, stats = jax.vjp(attend, *inputs[:3], has_aux=True)
    return out_BSHD, stats, pull_back(inputs[3])

  return run


def _run(backend, name, inputs=None):
  case = CASES[name]
  return _compiled(backend, name)(inputs or case.inputs(backend), case.traced)


def _here(name):
  gpu = jax.default_backend() == "gpu"
  skip = pytest.mark.skipif(not gpu, reason="cuDNN needs an NVIDIA GPU")
  return pytest.param(name, marks=skip if name == "cudnn" else ())


def _backends(*needs):
  return pytest.mark.parametrize(
    "backend",
    [_here(name) for name, b in BACKENDS.items() if {*needs} <= b.honors],
  )


def _relative_error(got, want):
  got = np.asarray(got, float)
  assert np.isfinite(got).all()
  return np.linalg.norm(got - want) / np.linalg.norm(want)


@pytest.mark.parametrize("backend", [*map(_here, BACKENDS)])
@pytest.mark.parametrize("name", CASES)
def test_is_the_formula_in_value_and_gradient(backend, name):
  case = CASES[name]
  if not case.needs <= BACKENDS[backend].honors:
    with pytest.raises(ValueError, match="needs a backend that honors it"):
      _run(backend, name)
    return
  out_BSHD, stats, gradients = _run(backend, name)
  inputs = case.inputs(backend)
  want_BSHD, want_stats, want_gradients = _formula(
    inputs, **case.arguments(case.traced)
  )
  assert out_BSHD.dtype == inputs[0].dtype
  # A few of bfloat16's roundings, of 2^-9 each; float32 sums a hundred terms.
  limit = 1e-5 if out_BSHD.dtype == jnp.float32 else 1e-2
  assert _relative_error(out_BSHD, want_BSHD) < limit
  for x, got, want in zip("qkv", gradients, want_gradients, strict=True):
    assert _relative_error(got, want) < limit, f"the gradient of {x}"
  if stats is not None:
    for got_BHS, want_BHS in zip(stats, want_stats, strict=True):
      assert got_BHS.dtype == jnp.float32
      np.testing.assert_allclose(got_BHS, want_BHS, rtol=limit, atol=limit)


@_backends(Need.SEGMENTS)
def test_a_query_that_sees_nothing_gets_and_gives_zero(backend):
  out_BSHD, _, (d_q_BSHD, d_k_BTHD, d_v_BTHD) = _run(backend, PACKED)
  alone_BS = PACKED_BS == 2
  for x_BSHD in (out_BSHD, d_q_BSHD, d_k_BTHD, d_v_BTHD):
    assert not np.any(x_BSHD[alone_BS])
  for x_BSHD in (out_BSHD, d_v_BTHD):
    assert np.any(x_BSHD[~alone_BS], axis=(1, 2)).all()


@_backends(Need.SEGMENTS)
def test_a_document_leaves_the_others_bit_for_bit(backend):
  changed_BS = PACKED_BS == 1
  noise = np.random.default_rng(1).normal(size=(B, S, 1, D))
  others = [
    jnp.where(changed_BS[..., None, None], x + noise.astype(x.dtype), x)
    for x in CASES[PACKED].inputs(backend)
  ]
  one, other = _run(backend, PACKED), _run(backend, PACKED, others)
  for before, after in zip(
    (one[0], *one[2]), (other[0], *other[2]), strict=True
  ):
    before, after = np.asarray(before), np.asarray(after)
    np.testing.assert_array_equal(before[~changed_BS], after[~changed_BS])
    assert np.mean(before[changed_BS] != after[changed_BS]) > 0.9


@_backends(Need.FLOAT32)
def test_logits_of_ten_thousand_survive(backend):
  q_BSHD, k_BTKD, v_BTKD, cotangent_BSHD = CASES[PLAIN].inputs(backend)
  inputs = [3e3 * q_BSHD, k_BTKD, v_BTKD, cotangent_BSHD]
  out_BSHD, stats, gradients = _run(backend, PLAIN, inputs)
  want_BSHD, want_stats, want_gradients = _formula(inputs, Mask())
  assert want_stats.max_logit_BHS.max() > 1e4
  # Logits of 1e4 are rounded to 1e-3, and so are weights; gradients are those
  # of the few queries that have not settled on one key.
  assert _relative_error(out_BSHD, want_BSHD) < 2e-3
  for got, want in zip(gradients, want_gradients, strict=True):
    assert _relative_error(got, want) < 2e-2
  if stats is not None:
    for got_BHS, want_BHS in zip(stats, want_stats, strict=True):
      np.testing.assert_allclose(got_BHS, want_BHS, rtol=1e-5, atol=1e-2)


@_backends(Need.FLOAT32)
def test_a_key_with_a_logit_of_minus_infinity_has_no_weight(backend):
  """The product of one channel overflows, and only with that key."""
  q_BSHD, k_BTKD, v_BTKD, cotangent_BSHD = CASES[PLAIN].inputs(backend)
  inputs = [
    q_BSHD.at[..., 0].set(1e20),
    k_BTKD.at[..., 0].set(0).at[:, 5, :, 0].set(-1e20),
    v_BTKD,
    cotangent_BSHD,
  ]
  out_BSHD, _, (d_q_BSHD, d_k_BTKD, d_v_BTKD) = _run(backend, PLAIN, inputs)
  want_BSHD, _, (want_q_BSHD, _, want_v_BTKD) = _formula(inputs, Mask())
  assert _relative_error(out_BSHD, want_BSHD) < 1e-5
  assert _relative_error(d_q_BSHD, want_q_BSHD) < 1e-5
  assert _relative_error(d_v_BTKD, want_v_BTKD) < 1e-5
  assert np.isfinite(d_k_BTKD).all()
  assert not np.any(d_k_BTKD[:, 5]) and not np.any(d_v_BTKD[:, 5])


@pytest.mark.parametrize("backend", ["reference", "blockwise", "xla"])
def test_an_output_depends_on_exactly_the_keys_its_mask_shows(backend):
  """By the Jacobian of each output to each key and value."""
  T = S + 70
  offset_B = jnp.array([60])  # Ten slots of the cache are still empty.
  segment_S, segment_T = np.arange(60, 60 + S) // 75, np.arange(T) // 75
  q_BSHD, k_BTKD, v_BTKD, _ = (
    x[:1] for x in CASES["everything"].inputs(backend)
  )
  k_BTKD, v_BTKD = (jnp.resize(x, (1, T, 2, D)) for x in (k_BTKD, v_BTKD))

  @jax.jit
  def jacobian_S2T(mask):
    def outputs_S(shift_2T):
      k_shift, v_shift = shift_2T[:, None, :, None, None]
      out_BSHD = attention.attend(
        q_BSHD, k_BTKD + k_shift, v_BTKD + v_shift, mask=mask, backend=backend
      )
      return out_BSHD.sum((0, 2, 3))

    return jax.jacrev(outputs_S)(jnp.zeros((2, T)))

  back_ST = 60 + np.arange(S)[:, None] - np.arange(T)
  for window in (2**31 - 1, 37, 1):
    mask = Mask(offset_B, jnp.int32(window), segment_S[None], segment_T[None])
    visible_ST = (back_ST >= 0) & (back_ST < window)
    visible_ST &= segment_S[:, None] == segment_T
    influence_ST = np.abs(jacobian_S2T(mask)).sum(1)
    # Exactly zero where hidden; a visible key always moves its output.
    np.testing.assert_array_equal(influence_ST > 0, visible_ST)


def test_statistics_have_no_gradient():
  *qkv, _ = CASES[PLAIN].inputs("reference")

  @jax.jit
  def total(q_BSHD):
    _, stats = attention.attend(q_BSHD, *qkv[1:], mask=Mask(), with_stats=True)
    return jnp.sum(stats.lse_BHS) + jnp.sum(stats.max_logit_BHS)

  assert total(qkv[0]) != total(2 * qkv[0])
  assert not np.any(jax.grad(total)(qkv[0]))


def test_slopes_have_no_gradient():
  *qkv, _ = CASES[PLAIN].inputs("reference")

  @jax.jit
  def total(slopes_H):
    return attention.attend(*qkv, mask=Mask(), slopes_H=slopes_H).sum()

  slopes_H = jnp.array([0.5, 0.1])
  assert total(slopes_H) != total(2 * slopes_H)
  assert not np.any(jax.grad(total)(slopes_H))


@_backends(Need.BIAS)
def test_a_bias_by_distance_has_the_gradient_of_its_formula(backend):
  q_BSHD, k_BTHD, v_BTHD, _ = CASES[PLAIN].inputs(backend)
  back_ST = np.arange(S)[:, None] - np.arange(S)

  @jax.jit
  @jax.grad
  def got(bias_HT):
    out_BSHD = attention.attend(
      q_BSHD, k_BTHD, v_BTHD, mask=Mask(), bias_HT=bias_HT, backend=backend
    )
    return jnp.square(out_BSHD).sum()

  @jax.jit
  @jax.grad
  def want(bias_HT):
    logits_BHST = jnp.einsum("bshd,bthd->bhst", q_BSHD, k_BTHD) / D**0.5
    logits_BHST += bias_HT[:, np.maximum(back_ST, 0)]
    logits_BHST = jnp.where(back_ST >= 0, logits_BHST, -jnp.inf)
    weights_BHST = jax.nn.softmax(logits_BHST)
    return jnp.square(jnp.einsum("bhst,bthd->bshd", weights_BHST, v_BTHD)).sum()

  bias_HT = jnp.asarray(BIAS_HT[:2])
  want_HT = np.asarray(want(bias_HT))
  assert np.abs(want_HT[:, :S]).min(axis=1).max() > 0
  assert not want_HT[:, S:].any()
  np.testing.assert_allclose(got(bias_HT), want_HT, atol=1e-4 * want_HT.max())


# What is refused --------------------------------------------------------------

_ONE_B = np.zeros(1, np.int32)
_SEGMENT_BS = np.zeros((1, 4), np.int32)
_TABLE_N2SD = np.ones((1, 2, 4, 8), np.float32)
ARGUMENTS = {
  Need.OFFSET: {"mask": Mask(offset_B=_ONE_B)},
  Need.WINDOW: {"mask": Mask(window=2)},
  Need.TRACED_WINDOW: {"mask": Mask(window=jnp.int32(2))},
  Need.SEGMENTS: {"mask": Mask(None, None, _SEGMENT_BS, _SEGMENT_BS)},
  Need.SLOPES: {"slopes_H": SLOPES_H},
  Need.BIAS: {"bias_HT": BIAS_HT},
  Need.SOFT_CAP: {"soft_cap": 2.0},
  Need.STATS: {"with_stats": True},
  Need.ROTATION: {"rotation": Rotation(_TABLE_N2SD, _TABLE_N2SD, np.int32(0))},
  Need.FLOAT32: {},
}


def _abstractly(backend, need=None, **changes):
  dtype = jnp.float32 if need == Need.FLOAT32 else jnp.bfloat16
  shapes = {"q": (1, 4, 4, 8), "k": (1, 4, 2, 8), "v": (1, 4, 2, 8)} | changes
  arguments = {"mask": Mask()} | ARGUMENTS.get(need, {})
  return jax.eval_shape(
    functools.partial(attention.attend, backend=backend, **arguments),
    *(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes.values()),
  )


@pytest.mark.parametrize("need", ARGUMENTS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_argument_is_honored_or_refused_with_who_honors_it(backend, need):
  if need not in BACKENDS[backend].honors:
    able = [name for name, b in BACKENDS.items() if need in b.honors]
    message = f"with .*{need}.* got '{backend}'. Name one of {', '.join(able)}"
    with pytest.raises(ValueError, match=message):
      _abstractly(backend, need)
  elif backend != "cudnn":
    result = _abstractly(backend, need)
    assert (need == Need.STATS) == isinstance(result, tuple)


def test_every_need_is_tested():
  assert set(ARGUMENTS) == set(Need)


def test_an_unknown_backend_is_refused_with_the_names_that_exist():
  message = "one of reference, blockwise, .*, got 'flash'. Name one of these."
  with pytest.raises(ValueError, match=message):
    _abstractly("flash")


@pytest.mark.parametrize(
  "shapes,message",
  [
    ({"q": (1, 5, 4, 8)}, "a key for each query, got 4 keys for 5 queries"),
    ({"q": (1, 4, 3, 8)}, "K dividing H"),
    ({"q": (2, 4, 4, 8)}, "Project them alike"),
    ({"k": (1, 4, 2, 4)}, "Project them alike"),
    ({"v": (1, 4, 1, 8)}, "Project them alike"),
  ],
)
def test_shapes_that_do_not_fit_are_refused(shapes, message):
  with pytest.raises(ValueError, match=message):
    _abstractly("reference", **shapes)


@pytest.mark.parametrize("side", ["q_segment_BS", "k_segment_BT"])
def test_segments_of_one_side_are_refused(side, monkeypatch):
  mask = Mask(**{side: _SEGMENT_BS})
  monkeypatch.setitem(ARGUMENTS, None, {"mask": mask})
  with pytest.raises(ValueError, match="got those of one side"):
    _abstractly("reference")


@pytest.mark.parametrize("name", BACKENDS)
def test_attend_runs_the_backend_it_was_given(name, monkeypatch):
  ran = []

  def stub(other, *args):
    ran.append(other)
    return args[2], None, None

  stubs = {
    other: backend._replace(attend=functools.partial(stub, other))
    for other, backend in BACKENDS.items()
  }
  monkeypatch.setattr(attention.backends, "BACKENDS", stubs)
  _abstractly(name)
  assert ran == [name]
