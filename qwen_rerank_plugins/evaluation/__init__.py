"""Evaluate a reranker on judged queries: nDCG, MRR, MAP, recall and precision, before and after, with intervals.

    >>> from qwen_rerank_plugins import RerankConfig
    >>> from qwen_rerank_plugins.evaluation import System, bm25_run, evaluate, load_bundled, summarize
    >>> dataset = load_bundled()
    >>> found = evaluate(dataset, bm25_run(dataset), [System("overlap", RerankConfig(backend="lexical"))])
    >>> summarize(found)["dataset"]["name"]
    'bundled'

Needs the extra `eval`. The command `qwen-rerank evaluate` adds files and tables.
"""

from qwen_rerank_plugins.evaluation.extra import require_extra

require_extra()

from qwen_rerank_plugins.evaluation.bootstrap import Resampling  # noqa: E402 (after the check)
from qwen_rerank_plugins.evaluation.calibration import (  # noqa: E402
    CalibrationPlan,
    FittedCalibration,
    documents_to_fit,
    write_calibration,
)
from qwen_rerank_plugins.evaluation.datasets.dataset import Dataset, Query  # noqa: E402
from qwen_rerank_plugins.evaluation.datasets.formats import read_run  # noqa: E402
from qwen_rerank_plugins.evaluation.datasets.loading import (  # noqa: E402
    load_bundled,
    load_dataset,
    load_files,
    load_rows,
)
from qwen_rerank_plugins.evaluation.evaluator import Evaluation, Plan, evaluate  # noqa: E402
from qwen_rerank_plugins.evaluation.first_stage import bm25_run, run_from_scores  # noqa: E402
from qwen_rerank_plugins.evaluation.measures import Measure, parse_measure  # noqa: E402
from qwen_rerank_plugins.evaluation.proposals import Proposal, Target, parse_target  # noqa: E402
from qwen_rerank_plugins.evaluation.report.page import write_report  # noqa: E402
from qwen_rerank_plugins.evaluation.report.summary import summarize  # noqa: E402
from qwen_rerank_plugins.evaluation.runs import write_run  # noqa: E402
from qwen_rerank_plugins.evaluation.scoring import System  # noqa: E402

__all__ = [
    "CalibrationPlan",
    "Dataset",
    "Evaluation",
    "FittedCalibration",
    "Measure",
    "Plan",
    "Proposal",
    "Query",
    "Resampling",
    "System",
    "Target",
    "bm25_run",
    "documents_to_fit",
    "evaluate",
    "load_bundled",
    "load_dataset",
    "load_files",
    "load_rows",
    "parse_measure",
    "parse_target",
    "read_run",
    "run_from_scores",
    "summarize",
    "write_calibration",
    "write_report",
    "write_run",
]
