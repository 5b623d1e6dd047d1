"""How far scores in int8 are from those in float32, and how much each linear layer contributes.

    python benchmarks/fidelity.py                                # the demo model
    python benchmarks/fidelity.py --model DIR --outliers         # with outliers planted into its activations
    qwen-rerank evaluate JUDGED --model DIR --quantization int8  # ranking quality, on judged pairs

Outliers are those that trained models have: six channels a hundred times as large as the others, and one channel of
the first token a thousand times as large. Tables go to standard output, and one line of JSON last.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402 - the repository's root comes first
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks import machine  # noqa: E402
from benchmarks.workloads import make_workloads  # noqa: E402
from qwen_rerank_plugins import RerankConfig  # noqa: E402
from qwen_rerank_plugins.core.engine.engine import Engine  # noqa: E402
from qwen_rerank_plugins.core.model import int8  # noqa: E402
from qwen_rerank_plugins.core.model.decoder import Decoder, LayerWeights  # noqa: E402
from qwen_rerank_plugins.core.model.linear import Linear  # noqa: E402
from qwen_rerank_plugins.core.prompts.encoder import PromptEncoder, TokenLimits  # noqa: E402
from qwen_rerank_plugins.core.runtime import load_runtime  # noqa: E402
from qwen_rerank_plugins.core.sequences import Segment  # noqa: E402
from qwen_rerank_plugins.types import ScoreRequest  # noqa: E402

NAMES = ("query", "key_value", "output", "gate_up", "down")
OUTLIER_CHANNELS = (3, 10, 17, 24, 31, 38)
CHANNEL_FACTOR = 100.0
FIRST_TOKEN_FACTOR = 1000.0
TOP = 10

Lists = Sequence[Sequence[Segment]]
"""The prompts of each list of documents that is ranked."""


class Probe(Linear):
    """A layer that computes in float32, and measures int8 on the same input.

    Attributes:
        errors: The relative error of each product, in the Frobenius norm.
        num_rows: Rows multiplied so far.
        num_fine: Of those, rows with a fine part.
    """

    __slots__ = ("errors", "exact", "num_fine", "num_rows", "quantized")

    def __init__(self, exact: Linear, activations: int8.ActivationCodes) -> None:
        super().__init__(exact.weight, exact.bias)
        self.exact = exact
        self.quantized = int8.Int8Linear.from_linear(exact, activations)
        self.errors: list[float] = []
        self.num_rows = self.num_fine = 0

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the exact product, and note the error of the other."""
        del out
        encoded = self.quantized.encode(x)
        wanted, found = self.exact(x), self.quantized(encoded)
        self.errors.append(float((found - wanted).norm() / wanted.norm()))
        self.num_rows += x.shape[0]
        self.num_fine += 0 if encoded.fine_rows is None else encoded.fine_rows.shape[0]
        return wanted

    def add_to(self, x: Tensor, y: Tensor) -> None:
        """Add the exact product in place."""
        x += self(y)


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Scores in int8 against those in float32.

    Attributes:
        variant: The number format.
        max_log_odds, mean_log_odds: Largest and mean difference in log-odds.
        max_probability: Largest difference in probability.
        kendall: Kendall's tau, the mean over the lists.
        top_overlap: Share of the ten best that are the same, the mean over the lists.
    """

    variant: str
    max_log_odds: float
    mean_log_odds: float
    max_probability: float
    kendall: float
    top_overlap: float

    @classmethod
    def of(cls, variant: str, wanted: Sequence[Tensor], found: Sequence[Tensor]) -> Fidelity:
        """Compare the log-odds of some lists."""
        one, other = torch.cat(list(wanted)), torch.cat(list(found))
        difference = (one - other).abs()
        lists = list(zip(wanted, found, strict=True))
        return cls(
            variant,
            float(difference.max()),
            float(difference.mean()),
            float((one.sigmoid() - other.sigmoid()).abs().max()),
            sum(kendall(*pair) for pair in lists) / len(lists),
            sum(top_overlap(*pair) for pair in lists) / len(lists),
        )


def kendall(one: Tensor, other: Tensor) -> float:
    """Return Kendall's tau of two lists of scores."""
    pairs = list(combinations(range(len(one)), 2))
    signs = [float(torch.sign(one[a] - one[b]) * torch.sign(other[a] - other[b])) for a, b in pairs]
    return sum(signs) / len(signs)


def top_overlap(one: Tensor, other: Tensor) -> float:
    """Return the share of the ten best documents that both lists have."""
    count = min(TOP, len(one))
    best = [set(scores.topk(count).indices.tolist()) for scores in (one, other)]
    return len(best[0] & best[1]) / count


def open_model(options: argparse.Namespace) -> tuple[Decoder, Lists]:
    """Load the model in float32 and encode the lists."""
    config = RerankConfig(model=options.model, device="cpu", dtype="float32", num_threads=options.threads)
    runtime = load_runtime(config.replace(self_check=False))
    encoder = PromptEncoder(runtime.tokenizer, runtime.family, TokenLimits())
    sizes = dict.fromkeys(("mixed", "short"), options.documents)
    lists = []
    for workload in make_workloads(lambda text: len(text.split()), sizes):
        requests = [ScoreRequest(*pair) for pair in workload.pairs]
        lists.append([prompt for pair in encoder.encode(requests) for prompt in pair.prompts])
    runtime.close()  # the scheduler's worker alone uses the engine otherwise
    return runtime.engines[0].decoder, lists


def plant_outliers(decoder: Decoder, first_id: int) -> None:
    """Enlarge some channels of all embeddings, and one more of the first token."""
    embedding = decoder.weights.embedding
    embedding[:, list(OUTLIER_CHANNELS)] *= CHANNEL_FACTOR
    embedding[first_id, 0] *= FIRST_TOKEN_FACTOR


def with_layers(decoder: Decoder, layers: list[LayerWeights]) -> Decoder:
    """Return a decoder with other linear layers."""
    return Decoder(decoder.architecture, replace(decoder.weights, layers=layers))


def converted(layer: LayerWeights, make: Any, activations: int8.ActivationCodes) -> LayerWeights:
    """Return a layer whose linear layers are made from its own."""
    return replace(layer, **{name: make(getattr(layer, name), activations) for name in NAMES})


def score(decoder: Decoder, lists: Lists) -> list[Tensor]:
    """Return the log-odds of each list, from one batch per list."""
    return [torch.tensor(Engine(decoder).log_odds(prompts), dtype=torch.float64) for prompts in lists]


def compare(decoder: Decoder, lists: Lists) -> Iterator[Fidelity]:
    """Yield the fidelity of each number format."""
    wanted = score(decoder, lists)
    for activations in (int8.EIGHT_BITS, int8.SEVEN_BITS):
        layers = [converted(x, int8.Int8Linear.from_linear, activations) for x in decoder.weights.layers]
        quantized = with_layers(decoder, layers)
        bits = f"activations to {activations.limit}"
        yield Fidelity.of(bits, wanted, score(quantized, lists))
        with mock.patch.object(int8, "MAX_PEAK", float("inf")):
            yield Fidelity.of(f"{bits}, no fine parts", wanted, score(quantized, lists))


def probe(
    decoder: Decoder, prompts: Sequence[Segment], activations: int8.ActivationCodes
) -> list[list[Probe]]:
    """Return the measured linear layers of each layer, after one batch."""
    layers = [converted(layer, Probe, activations) for layer in decoder.weights.layers]
    Engine(with_layers(decoder, layers)).log_odds(prompts)
    return [[getattr(layer, name) for name in NAMES] for layer in layers]


def show_layers(probes: list[list[Probe]], activations: int8.ActivationCodes) -> list[dict[str, Any]]:
    """Print the relative errors of each layer; return the rows."""
    rows = []
    title = f"relative error of products, activations to {activations.limit}"
    table = Table("layer", *NAMES, "rows with a fine part", title=title)
    for index, layer in enumerate(probes):
        errors = {name: max(one.errors) for name, one in zip(NAMES, layer, strict=True)}
        fine = {name: one.num_fine / one.num_rows for name, one in zip(NAMES, layer, strict=True)}
        shares = ", ".join(f"{name} {share:.0%}" for name, share in fine.items() if share)
        table.add_row(str(index), *(f"{error:.2%}" for error in errors.values()), shares)
        rows.append({"layer": index, "relative_error": errors, "fine_rows": fine})
    console().print(table)
    return rows


def show_scores(results: Sequence[Fidelity]) -> None:
    """Print the fidelity of the scores."""
    scores = Table("int8", "max |Δlog-odds|", "mean", "max |Δp|", "Kendall's tau", f"top-{TOP} overlap")
    for one in results:
        numbers = (one.max_log_odds, one.mean_log_odds, one.max_probability, one.kendall, one.top_overlap)
        scores.add_row(one.variant, *(f"{number:.3g}" for number in numbers))
    console().print(scores)


def console() -> Console:
    """Return a console that is wide enough for the tables."""
    return Console(width=None if sys.stdout.isatty() else 110)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="demo", help="folder or name of a checkpoint")
    parser.add_argument("--outliers", action="store_true", help="plant outliers into the activations")
    parser.add_argument("--documents", type=int, default=24, help="documents of each of two lists")
    parser.add_argument("--threads", type=int, help="default: torch's own number")
    options = parser.parse_args(arguments)
    decoder, lists = open_model(options)
    with torch.inference_mode():
        if options.outliers:
            plant_outliers(decoder, lists[0][0].path()[0].ids[0])
        spread = float(torch.cat(score(decoder, lists)).std())
        results = list(compare(decoder, lists))
        rows = {
            f"activations to {activations.limit}": show_layers(
                probe(decoder, lists[0], activations), activations
            )
            for activations in (int8.EIGHT_BITS, int8.SEVEN_BITS)
        }
        show_scores(results)
    print(f"The log-odds in float32 have a standard deviation of {spread:.3g}.")
    facts = {"benchmark": "fidelity", "machine": machine.describe(), "model": options.model}
    facts |= {"outliers": options.outliers, "log_odds_std": spread, "layers": rows}
    print(json.dumps(facts | {"scores": [asdict(one) for one in results]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
