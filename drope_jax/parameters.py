"""What each parameter of a model is, said once.

Sharding, optimizers, FLOPs, adapters, importers and exporters read it here. The
modules of `model/` make the arrays, and say how they are initialized.
"""

from collections.abc import Collection, Mapping
import dataclasses
import enum
import re
import types


class Role(enum.Enum):
  """What a model does with a parameter."""

  TABLE = "rows are looked up by token; with tied embeddings, the head as well"
  PROJECTION = "a matrix of a layer, by which every token is multiplied"
  HEAD = "the matrix that makes logits"
  BIAS = "added to a projection"
  GAIN = "multiplies what is normalized"
  SHIFT = "added to what is normalized"
  POSITION = "what a positional scheme learns, a few numbers a head"
  POSITION_TABLE = "rows are looked up by position"
  ADAPTER = "one of the two low-rank factors beside a projection"


@dataclasses.dataclass(frozen=True)
class Parameter:
  """One parameter.

  Attributes:
    axes: a letter for each axis, as in `axes.py`; HD and KD are the merged
      channels of all heads. Matrices are [in, out].
    role: what the model does with it.
    is_rotated: whether its last axis is channels that RoPE rotates, so that its
      order follows the layout of rotary pairs.
  """

  axes: tuple[str, ...]
  role: Role
  is_rotated: bool = False

  @property
  def is_stacked(self) -> bool:
    """Whether the layers of a group are stacked along the first axis."""
    return self.axes[0] == "N"

  @property
  def is_matrix(self) -> bool:
    """Whether it is [in, out], where other projects' files have [out, in]."""
    return self.role in (Role.PROJECTION, Role.HEAD)

  @property
  def is_replicated(self) -> bool:
    """Whether every device has all of it, as it is too small to be split."""
    return self.role in (Role.GAIN, Role.SHIFT, Role.POSITION)

  @property
  def decays(self) -> bool:
    """Whether weight decay shrinks it; tables decay by choice."""
    return self.is_matrix or self.role is Role.ADAPTER

  @property
  def muon_axes(self) -> tuple[int, int] | None:
    """The in and out axes of what Muon makes orthogonal; the rest are a batch.

    None where Muon leaves it to Adam.
    """
    if self.role is not Role.PROJECTION:
      return None
    return len(self.axes) - 2, len(self.axes) - 1


_NORM = types.MappingProxyType({"gain": Role.GAIN, "bias": Role.SHIFT})
"""What a norm has; an RMSNorm has the gain alone."""


def _layer() -> dict[str, Parameter]:
  """Returns a layer's parameters, by their paths in it."""
  found = {
    f"{part}_norm/{name}": Parameter(("N", "M"), role)
    for part in ("attention", "attention_post", "mlp", "mlp_post")
    for name, role in _NORM.items()
  }
  found["attention/positions/NAME"] = Parameter(("N", "H"), Role.POSITION)
  for name, axes in {
    "attention/q": ("M", "HD"),
    "attention/k": ("M", "KD"),
    "attention/v": ("M", "KD"),
    "attention/o": ("HD", "M"),
    "mlp/gate": ("M", "I"),
    "mlp/up": ("M", "I"),
    "mlp/down": ("I", "M"),
  }.items():
    into, out = axes
    rotated = name in ("attention/q", "attention/k")
    found |= {
      f"{name}/kernel": Parameter(("N", into, out), Role.PROJECTION, rotated),
      f"{name}/lora_a": Parameter(("N", into, "R"), Role.ADAPTER),
      f"{name}/lora_b": Parameter(("N", "R", out), Role.ADAPTER, rotated),
      f"{name}/bias": Parameter(("N", out), Role.BIAS, rotated),
    }
    if rotated:  # [N, D] where each head has its own norm.
      found[f"{name}_norm/gain"] = Parameter(("N", out), Role.GAIN, rotated)
  return found


PARAMETERS: Mapping[str, Parameter] = types.MappingProxyType(
  {
    "embed/table": Parameter(("V", "M"), Role.TABLE),
    "embed/positions": Parameter(("P", "M"), Role.POSITION_TABLE),
    **{f"layers/{path}": one for path, one in _layer().items()},
    **{
      f"final_norm/{name}": Parameter(("M",), role)
      for name, role in _NORM.items()
    },
    "head/kernel": Parameter(("M", "V"), Role.HEAD),
  }
)
"""By path; those of a layer are the same in every group of layers.

Positional schemes name what they learn, in place of NAME.
"""


def describe(path: str) -> Parameter:
  """Returns what the parameter at a path is, in whichever group of layers.

  Raises:
    ValueError: there is none of that path.
  """
  of_one_group = re.sub(r"^layers/\d+/", "layers/", path)
  of_one_group = re.sub(r"(/positions)/\w+$", r"\1/NAME", of_one_group)
  if of_one_group not in PARAMETERS:
    raise ValueError(
      f"A parameter must be one of those in drope_jax/parameters.py, got "
      f"{path}. Describe it there."
    )
  return PARAMETERS[of_one_group]


def multiplied(paths: Collection[str]) -> tuple[str, ...]:
  """Returns which of a model's parameters every token is multiplied by.

  Args:
    paths: of all parameters of the model. Without a head, it is the table.
  """
  roles = {path: describe(path).role for path in paths}
  head = Role.HEAD if Role.HEAD in roles.values() else Role.TABLE
  return tuple(p for p, r in roles.items() if r in (Role.PROJECTION, head))
