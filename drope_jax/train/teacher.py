"""The model before the surgery as teacher of the model after it."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Teacher:
  """Targets from the run's base: the same weights under their old positions.

  The base is the model before the run's first surgery. It reads each batch
  beside the model that is trained, which learns the base's distribution of
  every next token. The text need not be what the base was trained on, then.

  Attributes:
    weight: of KL(base || model) in the objective, above 0 and at most 1; the
      text's cross-entropy has the rest.

  Source: Hinton et al. (arXiv:1503.02531), at a temperature of 1.
  """

  weight: float = 1.0

  def __post_init__(self):
    if not 0 < self.weight <= 1:
      raise ValueError(
        "Teacher.weight is a share of the objective, above 0 and at most 1, "
        f"got {self.weight}. Change it, or leave TrainPhase.teacher out."
      )
