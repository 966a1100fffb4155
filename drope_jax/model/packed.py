"""Weight matrices as generation on a CPU reads them, in few bits by choice.

Decoding multiplies one token by every matrix, so its speed is that of reading
them. The XLA of jaxlib 0.10 reads a matrix in place, on all cores, only if it
is given row by row of its outputs and is narrow enough. It then also takes the
layer out of its stack, and widens the numbers, on the way: a fused product. Of
a matrix [in, out] it first copies the layer's part, and then reads the copy on
one core.

XLA's library of products repacks their right side, and reads the left as it is.
The tokens of a batch are few beside the rows of a matrix [out, in], so that the
matrix is on the left. Since jaxlib 0.11 a single token is multiplied so too.
"""

import dataclasses
import functools
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from drope_jax import parameters
from drope_jax.axes import Array
from drope_jax.parameters import Role

DTYPES = ("float32", "bfloat16", "int8")
"""Of the numbers of a packed matrix."""

# XLA reads a matrix in place beside a vector of less than 16 KiB (kFusion-
# ThresholdBytes of its cpu_instruction_fusion.cc). Of a wider one it would make
# a transposed copy, which takes a hundred times as long.
_MOST_INPUTS = 4095

# With more tokens, the time to repack the matrix does not matter, and that to
# transpose the product does.
_MOST_ON_THE_RIGHT = 256

# Since jaxlib 0.11 a fused product adds one number at a time, which takes three
# times as long as to copy the layer's part for the library.
_FEWEST_ON_THE_RIGHT = 1 if jax.__version_info__ >= (0, 11) else 2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Packed:
  """A matrix, [..., in, out], in another form; computed with as float32.

  Attributes:
    values: float32; bfloat16 as its bits in uint16, since XLA's CPU backend
      would widen a whole stack of bfloat16 before its loop; or int8.
    scale: float32, of each row of the values; None without int8.
    ones: float32, 1 for each column of the values.
    transposed: whether the values are [..., out, in].
  """

  values: Array
  scale: Array | None
  ones: Array
  transposed: bool = dataclasses.field(metadata={"static": True})

  @property
  def shape(self) -> tuple[int, ...]:
    *lead, rows, columns = self.values.shape
    return (*lead, columns, rows) if self.transposed else (*lead, rows, columns)

  @property
  def dtype(self) -> jnp.dtype:
    """The dtype of computations with it."""
    return jnp.dtype(jnp.float32)

  @property
  def T(self) -> "Packed":
    return dataclasses.replace(self, transposed=not self.transposed)


Matrix: TypeAlias = Array | Packed


def pack(path: str, leaf: Array, dtype: str) -> Matrix:
  """Returns a parameter as generation on a CPU reads it fastest.

  Args:
    path: of the parameter in the tree; all but matrices are only cast.
    leaf: the parameter.
    dtype: one of `DTYPES`. int8 is the nearest of 255 steps between the largest
      of a row and its opposite.
  """
  role = parameters.describe(path).role
  if role not in (Role.TABLE, Role.PROJECTION, Role.HEAD):
    return leaf.astype(jnp.float32)
  # A table is [V, M], as the head reads it.
  transposed = role is not Role.TABLE and leaf.shape[-2] <= _MOST_INPUTS
  return _packed(leaf, transposed, dtype)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _packed(leaf: Array, transposed: bool, dtype: str) -> Packed:
  leaf = leaf.astype(jnp.float32)
  values = leaf.swapaxes(-1, -2) if transposed else leaf
  scale = None
  match dtype:
    case "bfloat16":
      values = values.astype(jnp.bfloat16).view(jnp.uint16)
    case "int8":
      largest = jnp.maximum(jnp.abs(values).max(axis=-1), 1e-30)
      scale = largest / 127
      values = jnp.round(values / scale[..., None]).astype(jnp.int8)
  *lead, _, columns = values.shape
  ones = jnp.ones((*lead, columns), jnp.float32)
  return Packed(values, scale, ones, transposed)


def dtype_name(matrix: Matrix) -> str:
  """Returns the name of the dtype of a matrix's numbers."""
  held = matrix.values if isinstance(matrix, Packed) else matrix
  return "bfloat16" if held.dtype == jnp.uint16 else held.dtype.name


def product(
  x_BSM: Array, kernel: Matrix, result_dtype: Any | None = None
) -> Array:
  """Returns x @ kernel, computed in x's dtype.

  Args:
    x_BSM: what is multiplied.
    kernel: [in, out].
    result_dtype: to which the product is summed; None for x's dtype.
  """
  multiply = functools.partial(jnp.matmul, preferred_element_type=result_dtype)
  if not isinstance(kernel, Packed):
    return multiply(x_BSM, kernel.astype(x_BSM.dtype))
  values = kernel.values
  if values.dtype != jnp.float32:
    # A zero that is tied to x, so that no loop over tokens widens the matrix
    # before it. A matrix that is itself behind a barrier would be copied.
    zero, x_BSM = jax.lax.optimization_barrier(
      (jnp.zeros((), values.dtype), x_BSM)
    )
    values ^= zero
  values = _wide(values).astype(x_BSM.dtype)
  if not kernel.transposed:
    if kernel.scale is not None:
      x_BSM *= kernel.scale
    return multiply(x_BSM, values)
  tokens = x_BSM.size // x_BSM.shape[-1]
  if tokens < _FEWEST_ON_THE_RIGHT:
    # XLA computes one token's channels anew for each output if that is cheap.
    # It stores quotients, and does not know that these are x.
    x_BSM /= kernel.ones.astype(x_BSM.dtype)
  if _FEWEST_ON_THE_RIGHT <= tokens <= _MOST_ON_THE_RIGHT:
    y_MBS = multiply(values, x_BSM.reshape(tokens, -1).T)
    # Or XLA would turn the product round.
    y_BSM = jax.lax.optimization_barrier(y_MBS).T
    y_BSM = y_BSM.reshape(*x_BSM.shape[:-1], -1)
  else:
    y_BSM = multiply(x_BSM, values.T)
  return y_BSM if kernel.scale is None else y_BSM * kernel.scale


def lookup(table: Matrix, tokens_BS: Array) -> Array:
  """Returns the rows x_BSM of a table [V, M]."""
  if not isinstance(table, Packed):
    return table[tokens_BS]
  assert not table.transposed
  x_BSM = _wide(table.values[tokens_BS])
  if table.scale is not None:
    x_BSM *= table.scale[tokens_BS][..., None]
  return x_BSM


def _wide(values: Array) -> Array:
  """Returns values as float32, but for the scale."""
  if values.dtype == jnp.uint16:
    bits = values.astype(jnp.uint32) << 16
    return jax.lax.bitcast_convert_type(bits, jnp.float32)
  return values.astype(jnp.float32)
