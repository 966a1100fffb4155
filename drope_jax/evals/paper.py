"""The figures of the DroPE paper's tables, for the suites that make them.

Source: arXiv:2512.12167, Tables 1-3, 5 and 7-10.
"""

from collections.abc import Mapping
import dataclasses

MEAN = "mean"
"""Title of the column that is the mean of the others."""


@dataclasses.dataclass(frozen=True)
class Column:
  """What one column of a table measures, in our terms.

  Attributes:
    title: the paper's.
    tasks: by their names in results; the column is their mean.
    factor: tested length / trained length; None: the longest of the suite.
    metric: of the tasks; None: the first of each.
    part: of the inputs, by its name in `interface.Result.parts`; None: all.
  """

  title: str
  tasks: tuple[str, ...]
  factor: float | None = None
  metric: str | None = None
  part: str | None = None


@dataclasses.dataclass(frozen=True)
class Table:
  """A table of the paper.

  Attributes:
    about: models and setting.
    columns: what is measured.
    rows: percent by the paper's label, in the order of `columns`; None where
      the paper has no figure. With one more figure, that is the mean.
  """

  about: str
  columns: tuple[Column, ...]
  rows: Mapping[str, tuple[float | None, ...]]


_MATCH = "string_match_all"
_LONGBENCH = {
  "MultiFieldQA": "multifieldqa_en",
  "MuSiQue": "musique",
  "GovReport": "gov_report",
  "LCC": "lcc",
}


def _longbench(*titles: str) -> tuple[Column, ...]:
  return tuple(Column(title, (_LONGBENCH[title],)) for title in titles)


def _needles(title: str, task: str, factor: float) -> Column:
  return Column(title, (task,), factor, _MATCH)


def _by_length(task: str, *parts: str) -> tuple[Column, ...]:
  return tuple(Column(part, (task,), part=part) for part in parts)


TABLES: Mapping[str, Table] = {
  "1": Table(
    about="models of 494M parameters from scratch, at twice the context, 500 "
    "trials",
    columns=(
      _needles("multi-query", "niah_multiquery", 2.0),
      _needles("multi-key", "niah_multikey_1", 2.0),
      _needles("multi-value", "niah_multivalue", 2.0),
    ),
    rows={
      "RoPE": (0, 0, 0),
      "PI": (0, 0, 0),
      "NTK": (21.1, 19.4, 16.5),
      "YaRN": (17.8, 0.5, 14.6),
      "ALiBi": (5.2, 0, 1.1),
      "NoPE": (9.2, 36.2, 21.4),
      "RNoPE-SWA": (5.2, 25.6, 20.6),
      "DroPE": (28.0, 41.6, 23.3),
    },
  ),
  "2": Table(
    about="SmolLM-360M",
    columns=(
      *_longbench("MultiFieldQA", "MuSiQue", "GovReport", "LCC"),
      _needles("NIAH", "niah_single_2", 2.0),
    ),
    rows={
      "RoPE": (4.03, 0.4, 4.48, 5.99, 0, 2.98),
      "PI": (13.68, 2.45, 5.67, 11.52, 0, 6.66),
      "NTK": (18.87, 4.89, 23.71, 8.26, 29.84, 17.11),
      "YaRN": (20.78, 4.77, 15.03, 10.87, 48.25, 19.94),
      "DroPE": (29.33, 7.93, 21.87, 18.56, 74.92, 30.52),
    },
  ),
  "3": Table(
    about="SmolLM-1.7B and Llama-2-7B",
    columns=_longbench("MultiFieldQA", "MuSiQue", "GovReport"),
    rows={
      "SmolLM-1.7B, RoPE": (4.12, 0.50, 4.70),
      "SmolLM-1.7B, NTK": (27.58, 3.37, 24.65),
      "SmolLM-1.7B, YaRN": (27.60, 3.90, 17.19),
      "SmolLM-1.7B, DroPE": (32.18, 7.53, 24.77),
      "Llama-2-7B, RoPE": (17.26, 10.43, 32.41),
      "Llama-2-7B, NTK": (21.81, 10.91, 32.91),
      "Llama-2-7B, YaRN": (23.13, 7.65, 26.65),
      "Llama-2-7B, DroPE": (25.90, 12.88, 39.47),
    },
  ),
  "5": Table(
    about="in the trained context, by lighteval, whose prompts differ; ours "
    "are acc_norm, and acc of WinoGrande",
    columns=tuple(
      Column(title, (task,), 1.0, metric)
      for title, task, metric in (
        ("ARC-E", "arc_easy", "acc_norm"),
        ("ARC-C", "arc_challenge", "acc_norm"),
        ("HellaSwag", "hellaswag", "acc_norm"),
        ("OBQA", "openbookqa", "acc_norm"),
        ("PIQA", "piqa", "acc_norm"),
        ("WinoGrande", "winogrande", "acc"),
      )
    ),
    rows={
      "SmolLM-360M, RoPE": (65.6, 36.0, 53.8, 37.2, 72.0, 53.7),
      "SmolLM-360M, DroPE": (67.3, 37.6, 53.9, 38.0, 71.5, 52.3),
      "SmolLM-1.7B, RoPE": (77.5, 44.0, 64.1, 42.6, 77.3, 56.0),
      "SmolLM-1.7B, DroPE": (77.7, 42.9, 65.9, 43.0, 77.1, 57.1),
    },
  ),
  "7": Table(
    about="SmolLM-360M, all of LongBench",
    columns=(
      Column(
        "LongBench",
        (
          "narrativeqa",
          "qasper",
          "multifieldqa_en",
          "multifieldqa_zh",
          "hotpotqa",
          "2wikimqa",
          "musique",
          "dureader",
          "gov_report",
          "qmsum",
          "multi_news",
          "vcsum",
          "trec",
          "triviaqa",
          "samsum",
          "lsht",
          "passage_count",
          "passage_retrieval_en",
          "passage_retrieval_zh",
          "lcc",
          "repobench-p",
        ),
      ),
    ),
    rows={
      "RoPE": (2.59,),
      "PI": (2.48,),
      "NTK": (12.21,),
      "YaRN": (13.07,),
      "DroPE": (13.81,),
    },
  ),
  "8": Table(
    about="MultiFieldQA by the input's words",
    columns=_by_length("multifieldqa_en", "0-4k", "4-8k", "8-16k"),
    rows={
      "NTK": (34.25, 22.30, 21.63),
      "YaRN": (33.96, 22.91, 20.08),
      "DroPE": (32.82, 24.73, 30.07),
    },
  ),
  "9": Table(
    about="MuSiQue by the input's words",
    columns=_by_length("musique", "0-4k", "4-8k", "8-16k", "16-32k"),
    rows={
      "NTK": (0, 4.36, 3.36, 0),
      "YaRN": (0, 19.68, 3.13, 7.14),
      "DroPE": (50.0, 6.11, 8.05, 16.67),
    },
  ),
  "10": Table(
    about="SmolLM-360M, one needle",
    columns=tuple(
      _needles(f"{factor}×", "niah_single_2", factor) for factor in (2, 4, 8)
    ),
    rows={
      "NTK": (29.84, 14.37, 7.19),
      "YaRN": (48.25, 25.62, 12.18),
      "LongRoPE2": (44.20, 26.20, 16.45),
      "DroPE": (74.92, 55.00, 52.20),
    },
  ),
}
"""By their numbers in the paper."""
