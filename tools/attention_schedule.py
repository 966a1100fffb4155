"""Prints how one attention kernel's cycles add up over a causal row.

Holds the kernels that `bench_attention.py` compares and `tune_attention.py`
searches, as targets for `tpu_schedule.py`, and counts what each visits. A
schedule from the compiler, not a hardware timing.

python tools/attention_schedule.py flash --chip v6e --head-dim 64
"""

import argparse
from collections.abc import Sequence
import dataclasses
import importlib.util
import sys

import jax
import jax.numpy as jnp
import numpy as np
import tpu_schedule

from drope_jax.attention import FlashTpu, Rotation, flash_tpu
from drope_jax.attention.flash_tpu import blocks, tiles
from drope_jax.attention.flash_tpu.units import Blocks
from drope_jax.attention.mask import Mask
from drope_jax.model import transformer
from drope_jax.model.config import ModelConfig
from drope_jax.positional import Nope, Rope

CHIPS = ("v5e", "v5p", "v6e")
PRODUCTS = {"forward": 2, "backward": 5}
"""Matrix products of a tile, by direction."""
HEADS = 32
"""Enough that XLA leaves the arrays in HBM, as in a model."""
_MACS = {"v5e": 4 * 128**2, "v5p": 4 * 128**2, "v6e": 2 * 2 * 256**2}
"""Multiply-adds a cycle of a core, in bfloat16."""
_NAMES = {"forward": "fwd|forward", "backward": "dkv|backward"}


def flash(
  tokens: int,
  head_dim: int,
  forward: Sequence[int],
  backward: Sequence[int],
  option: str = "plain",
  gradient: bool = True,
):
  """Returns our kernel's gradient, or forward pass, and its arguments.

  Heads come first, as in the peers: to transpose is the projections' business.

  Args:
    tokens, head_dim: of the arrays, which have `HEADS` heads.
    forward, backward: fields of `Blocks`.
    option: "plain", "alibi", "window", "segments" or "rotation"; traced.
    gradient: whether to compile both kernels.
  """

  def attend(q_BHSD, k_BKTD, v_BKTD, ints_BS):
    mask, slopes_H, rotation = Mask(), None, None
    if option == "alibi":
      slopes_H = ints_BS[0, :HEADS].astype(jnp.float32)
    elif option == "window":
      mask = Mask(window=ints_BS[0, 0])
    elif option == "segments":
      mask = Mask(q_segment_BS=ints_BS, k_segment_BT=ints_BS)
    elif option == "rotation":
      turns_NB2SD = jnp.broadcast_to(
        ints_BS[:, None, :, None], (2, 2, tokens, head_dim)
      ).astype(jnp.float32)
      rotation = Rotation(turns_NB2SD, turns_NB2SD, ints_BS[0, 0])
    arrays_BSHD = (x.swapaxes(1, 2) for x in (q_BHSD, k_BKTD, v_BKTD))
    out_BSHD, *_ = flash_tpu.attend(
      *arrays_BSHD,
      mask,
      head_dim**-0.5,
      slopes_H,
      rotation=rotation,
      forward_blocks=Blocks(*forward),
      backward_blocks=Blocks(*backward),
    )
    return out_BSHD.swapaxes(1, 2)

  x_BHSD = jax.ShapeDtypeStruct((1, HEADS, tokens, head_dim), jnp.bfloat16)
  ints_BS = jax.ShapeDtypeStruct((1, tokens), jnp.int32)
  arguments = (x_BHSD, x_BHSD, x_BHSD, ints_BS)
  return (_gradient(attend) if gradient else attend), arguments


def layers(
  positional: str,
  tokens: int,
  head_dim: int,
  forward: Sequence[int],
  backward: Sequence[int],
):
  """Returns the gradient of two layers of a Llama of width 2048.

  Of two texts, with four times as many heads as key/value heads.

  Args:
    positional: "rope" or "nope".
    tokens, head_dim, forward, backward: as `flash` takes them.
  """
  heads = 2048 // head_dim
  config = ModelConfig(
    vocab_size=32_000,
    num_layers=2,
    width=2048,
    num_heads=heads,
    num_kv_heads=heads // 4,
    head_dim=head_dim,
    mlp_width=5632,
    context_tokens=tokens,
    positional={"rope": Rope, "nope": Nope}[positional](),
  )

  def total(params, tokens_BS):
    x_BSM = transformer.hidden(
      config,
      params,
      tokens_BS,
      backend=FlashTpu(Blocks(*forward), Blocks(*backward)),
      unroll=True,
    )
    return x_BSM.astype(jnp.float32).sum()

  params = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16),
    transformer.param_shapes(config),
  )
  tokens_BS = jax.ShapeDtypeStruct((2, tokens), jnp.int32)
  return jax.grad(total), (params, tokens_BS)


def splash(tokens: int, head_dim: int, block: Sequence[int]):
  """Returns JAX's kernel's gradient, fused, and its arguments.

  Args:
    tokens, head_dim: as `flash` takes them.
    block: queries, keys, and keys at a time.
  """
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel,
    splash_attention_mask,
  )

  q, k, k_compute = block
  sizes = splash_attention_kernel.BlockSizes(
    block_q=q,
    block_kv=k,
    block_kv_compute=k_compute,
    block_q_dkv=q,
    block_kv_dkv=k,
    block_kv_dkv_compute=k_compute,
    use_fused_bwd_kernel=True,
  )
  causal = splash_attention_mask.CausalMask((tokens, tokens))
  attend = splash_attention_kernel.make_splash_mha(
    splash_attention_mask.MultiHeadMask([causal] * HEADS),
    head_shards=1,
    q_seq_shards=1,
    block_sizes=sizes,
  )
  return _gradient(attend), _heads_first(tokens, head_dim)


def tokamax(tokens: int, head_dim: int, block: Sequence[int]):
  """Returns tokamax's kernel's gradient and its arguments, as `splash` does."""
  from tokamax._src.ops.experimental.tpu.splash_attention import (
    splash_attention_kernel,
    splash_attention_mask,
  )

  q, k, k_compute = block
  config = splash_attention_kernel.SplashConfig(
    block_q=q,
    block_kv=k,
    block_kv_compute=k_compute,
    block_q_dkv=q,
    block_kv_dkv=k,
    block_kv_dkv_compute=k_compute,
    use_experimental_scheduler=True,
  )
  attend = splash_attention_kernel.make_splash_mha_single_device(
    splash_attention_mask.CausalMask((tokens, tokens)), config=config
  )
  return _gradient(attend), _heads_first(tokens, head_dim)


def _gradient(attend):
  def total(q, k, v, *rest):
    return attend(q, k, v, *rest).astype(jnp.float32).sum()

  return jax.grad(total, argnums=(0, 1, 2))


def _heads_first(tokens, head_dim):
  return (jax.ShapeDtypeStruct((HEADS, tokens, head_dim), jnp.bfloat16),) * 3


@dataclasses.dataclass(frozen=True)
class Case:
  """One kernel, forward and backward, for one chip and shape.

  Attributes:
    kernel: "flash", "splash" or "tokamax".
    chip: of `CHIPS`.
    tokens, head_dim: as `flash` takes them.
    block: as `splash` takes it; None for `flash`, which has its table.
    option: as `flash` takes it.
  """

  kernel: str
  chip: str
  tokens: int
  head_dim: int
  block: tuple[int, ...] | None = None
  option: str = "plain"

  def compiled(self) -> tpu_schedule.Program:
    """Compiles the gradient; see `tpu_schedule.compiled` for what it raises."""
    kwargs = {"tokens": self.tokens, "head_dim": self.head_dim}
    if self.kernel == "flash":
      kwargs["option"] = self.option
      for direction in PRODUCTS:
        kwargs[direction] = dataclasses.astuple(self.blocks(direction))
    else:
      kwargs["block"] = self.block
    return tpu_schedule.compiled(
      f"attention_schedule:{self.kernel}", f"{self.chip}:2x2", kwargs
    )

  def blocks(self, direction: str) -> Blocks:
    """Returns those of our kernel."""
    return blocks.nearest(self.chip, self.head_dim, direction)

  def tile(self, direction: str) -> tuple[int, int]:
    """Returns queries and keys of a tile."""
    if self.kernel == "flash":
      return self.blocks(direction).tile
    return self.block[:2]

  def cycles(self, direction: str, kernel: tpu_schedule.Kernel) -> int:
    """Returns those of one head's causal row."""
    if self.kernel == "flash":
      cut = self.blocks(direction)
      return flash_cycles(direction, kernel, cut, self.tokens)
    return splash_cycles(direction, kernel, self.block, self.tokens)

  def mfu(self, direction: str, cycles: int) -> float:
    """Returns causal multiply-adds over what the matrix units could do."""
    macs = PRODUCTS[direction] * self.head_dim * self.tokens**2 / 2
    return macs / _MACS[self.chip] / cycles


def kernel_of(
  program: tpu_schedule.Program, direction: str
) -> tpu_schedule.Kernel:
  """Returns a program's forward or backward kernel, whoever's it is."""
  return program.kernel(_NAMES[direction])


def _visits(direction: str, tokens: int, tile: tuple[int, int]):
  """Returns our kernel's visits, and the kind of each tile."""
  shape = (tokens, tokens)
  if direction == "forward":
    visits = tiles.by_query(shape, tile, causal=True)
  else:
    visits = tiles.by_key(shape, tile, causal=True, heads=1)
  return visits, np.asarray(tiles.kinds_Bn(visits, tile, Mask()))[0]


def flash_cycles(
  direction: str, kernel: tpu_schedule.Kernel, cut: Blocks, tokens: int
) -> int:
  """Returns our kernel's cycles over one head's causal row."""
  tile = cut.fitted(tokens, tokens).tile
  visits, kinds = _visits(direction, tokens, tile)
  possible = tiles.possible_kinds(Mask(), tile)
  work = sum(
    cycles * int((kinds == kind).sum())
    for kind, cycles in zip(possible, kernel.tiles, strict=True)
  )
  first, last, complete = (
    int(((visits.flags & flag) != 0).sum())
    for flag in (tiles.FIRST, tiles.LAST, tiles.COMPLETE)
  )
  if direction == "forward":
    before, after = (first,), (last,)
  else:
    before, after = (1, first), (complete, last)
  return len(kinds) * kernel.step + work + _conditional(kernel, before, after)


def splash_cycles(
  direction: str,
  kernel: tpu_schedule.Kernel,
  block: Sequence[int],
  tokens: int,
) -> int:
  """Returns a peer's kernel's cycles over one head's causal row.

  Hidden tiles have a step of the grid too, but for tokamax's forward kernel,
  which is told by its code for whole tiles beside that for the rest.
  """
  q, k = np.mgrid[0 : tokens : block[0], 0 : tokens : block[1]]
  seen = k <= q + block[0] - 1
  whole = k + block[1] - 1 <= q
  two_kinds = len(kernel.tiles) == 2
  steps = seen.sum() if two_kinds and direction == "forward" else seen.size
  work = kernel.tiles[0] * whole.sum()
  work += kernel.tiles[-1] * (seen & ~whole).sum()
  rows = len(q) if direction == "forward" else q.shape[1]
  once = _conditional(kernel, (rows,), (rows,))
  return int(steps * kernel.step + work + once)


def _conditional(kernel, before, after) -> int:
  """Returns cycles of what only some steps run, by how often each piece does.

  Where the compiler made other pieces of the code, each counts as often as the
  most frequent.
  """
  total = 0
  for pieces, times in ((kernel.before, before), (kernel.after, after)):
    if len(pieces) != len(times):
      times = [max(times)] * len(pieces)
    total += sum(a * b for a, b in zip(pieces, times, strict=True))
  return total


def has_tokamax() -> bool:
  """Returns whether tokamax can be compared with."""
  return importlib.util.find_spec("tokamax") is not None


def main() -> None:
  """Prints one case."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("kernel", choices=("flash", "splash", "tokamax"))
  parser.add_argument("--chip", choices=CHIPS, default="v5e")
  parser.add_argument("--tokens", type=int, default=4096, metavar="T")
  parser.add_argument("--head-dim", type=int, default=128, metavar="D")
  parser.add_argument(
    "--block", type=int, nargs=3, default=(1024, 1024, 512), metavar="N"
  )
  args = parser.parse_args()
  # Visits are listed here; libtpu is the children's.
  jax.config.update("jax_platforms", "cpu")
  block = None if args.kernel == "flash" else tuple(args.block)
  case = Case(args.kernel, args.chip, args.tokens, args.head_dim, block)
  try:
    program = case.compiled()
  except (tpu_schedule.Unavailable, tpu_schedule.CompileError) as error:
    print(error, file=sys.stderr)
    sys.exit(2)
  for direction in PRODUCTS:
    kernel = kernel_of(program, direction)
    cycles = case.cycles(direction, kernel)
    print(
      f"{direction}: {cycles} cycles a head, static MFU "
      f"{case.mfu(direction, cycles):.3f}; a step {kernel.step}, tiles "
      f"{kernel.tiles}, else {kernel.before} {kernel.after}"
    )
  print(f"HBM temporaries: {program.temporary_bytes / 2**20:.0f} MiB")


if __name__ == "__main__":
  main()
