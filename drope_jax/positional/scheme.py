"""What a positional scheme is: all that it does to a model, in one place."""

from collections.abc import Mapping

from drope_jax.axes import Array


class Scheme:
  """How positions enter a model; the model knows no more of a scheme.

  A scheme is a frozen dataclass of hashable fields, so that a configuration
  holding one can be hashed, compared and written to a manifest. Dropping
  positions, or reading with scaled frequencies, replaces this object. The
  weights stay, except what the dropped scheme has learned.

  A scheme overrides the methods for what it does, and inherits the rest. Its
  arrays may be traced. `pattern.LayerPlan.prepare` calls the methods once a
  forward pass, outside the scan over layers; what layers learn is read inside.
  """

  def check(self, head_dim: int) -> None:
    """Raises ValueError where heads of `head_dim` channels do not fit."""

  @property
  def is_fixed(self) -> bool:
    """Whether the scheme is the same for sequences of any length."""
    return type(self).at is Scheme.at

  def at(self, length: int) -> "Scheme":
    """Returns the scheme that sequences of `length` tokens have.

    Raises:
      ValueError: `length` is above `most_tokens`.
    """
    del length
    return self

  @property
  def most_tokens(self) -> int | None:
    """The longest sequence that has positions; None: any has."""
    return None

  @property
  def table_tokens(self) -> int | None:
    """P, rows of the table "embed/positions"; None: the scheme has no table.

    Each row is a learned vector of the model's width. AdamW decays them where
    it decays embeddings.
    """
    return None

  def embedding(self, table_PM: Array, pos_BS: Array) -> Array:
    """Returns x_BSM, which is added to the tokens' embeddings.

    Args:
      table_PM: what the model has learned by now.
      pos_BS: int32 positions, from 0. B may be 1. What is returned for those
        from `most_tokens` on is not read.
    """
    raise NotImplementedError

  def rotation(self, pos_BS: Array, head_dim: int) -> Array | None:
    """Returns the table that rotates q and k; None: they are not rotated.

    Args:
      pos_BS: int32 positions of queries and keys, from 0. B may be 1.
      head_dim: D.

    Returns:
      float32 table_B2SD. Each channel x becomes x * table[0] + x' * table[1],
      where x' is the channel half a head away. The cosines of the two halves
      are equal, and the sines are opposite.
    """
    return None

  def bias_slopes(self, num_heads: int) -> Array | None:
    """Returns float32 slopes_H of a linear bias; None: there is none.

    A head's logits lose slope * (query position - key position). A kernel has
    no table to read for a linear bias, so do not give it by `bias` too.
    """
    return None

  def bias(self, num_heads: int, distance_T: Array) -> Array | None:
    """Returns float32 bias_HT, which is added to logits; None: there is none.

    No logit scale multiplies it.

    Args:
      num_heads: H.
      distance_T: int32 query positions minus key positions: 0, 1, ..., T - 1.
    """
    return None

  @property
  def learns(self) -> bool:
    """Whether layers have parameters of this scheme."""
    return type(self).init is not Scheme.init

  def init(self, num_heads: int, key: Array) -> dict[str, Array]:
    """Returns the first values of what a layer learns, by name; {}: nothing.

    They are float32 arrays that lead with H, and become the layer's parameters
    `attention/positions/NAME`. No weight decay shrinks them.
    """
    del num_heads, key
    return {}

  def learned_bias(
    self, learned: Mapping[str, Array], distance_T: Array
  ) -> Array:
    """Returns `bias`, of what the layer has learned by now.

    Args:
      learned: the layer's own values of what `init` names.
      distance_T: as `bias` takes it.
    """
    raise NotImplementedError

  def query_scale(self, pos_BS: Array) -> Array | None:
    """Returns float32 scale_BS, which multiplies each query's logits.

    None: nothing does. The model's logit scale multiplies them as well.

    Args:
      pos_BS: int32 positions of the queries, from 0. B may be 1.
    """
    return None
