from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import core, machine, report
from benchmarks.contenders import (
    BEST_FILE,
    CONTENDERS,
    Contender,
    Settings,
    best_settings,
    search,
    write_best,
)
from benchmarks.peers.runner import PREFIX, SUFFIX, Job, Scorer, body, measure
from benchmarks.processes import PEERS, RunnerError
from benchmarks.workloads import Workload, make_workloads
from qwen_rerank_plugins.core.prompts.families import get_family

WORKLOADS = make_workloads(lambda text: len(text.split()), {"mixed": 2, "short": 2})
REFERENCES = {"mixed": [0.25, 0.75], "short": [0.5, 0.1]}
MACHINE = {"cpu": "A processor", "cpu_model": "1-2", "cores": 2, "flags": ["avx2", "avx512_vnni"]}


def by_name(name: str) -> Contender:
    return next(one for one in CONTENDERS if one.name == name)


def fake(
    seconds: Mapping[str, float],
    *,
    dtype: str = "float32",
    shift: float = 0.0,
    peak_mb: float = 3000.0,
    alone_s: float | None = None,
) -> dict[str, Any]:
    """The output of a runner; scores are the reference's plus `shift`."""
    result: dict[str, Any] = {
        "load_s": 1.5,
        "load_peak_mb": 1000.0,
        "peak_mb": peak_mb,
        "dtype": dtype,
        "quantization": "none",
        "versions": {"torch": "1"},
        "runs": [
            {
                "workload": name,
                "batch_size": 4,
                "seconds": value,
                "probabilities": [p + shift for p in REFERENCES[name]],
            }
            for name, value in seconds.items()
        ],
    }
    if alone_s is not None:
        alone = {
            "num_tokens": 10,
            "num_prompts": 2,
            "gflop": 100.0,
            "seconds": alone_s,
            "gflops": 100 / alone_s,
        }
        result |= {"weight_mb": 2400.0, "multiplications": dict.fromkeys(seconds, alone)}
    return result


def figures(**others: Any) -> dict[str, Any]:
    results = {
        "ours": [
            fake({"mixed": 3.0, "short": 1.0}, alone_s=2.0),
            fake({"mixed": 2.5, "short": 1.2}, alone_s=2.1),
        ],
        "openvino": [fake({"mixed": 5.0, "short": 2.9}), fake({"mixed": 5.5, "short": 2.0})],
    }
    return report.assemble(WORKLOADS, {"mixed": 900, "short": 300}, REFERENCES, {**results, **others})


def row(found: Mapping[str, Any], workload: str, name: str) -> Mapping[str, Any]:
    rows: list[Mapping[str, Any]] = found["workloads"][workload]["rows"]
    return next(one for one in rows if one["name"] == name)


def test_the_best_round_of_each_counts() -> None:
    found = figures()
    ours, peer = row(found, "mixed", "ours"), row(found, "mixed", "openvino")
    assert (ours["seconds"], ours["all_seconds"], ours["pairs_per_s"]) == (2.5, [3.0, 2.5], 0.8)
    assert (peer["seconds"], peer["times_ours"], peer["batch_size"]) == (5.0, 2.0, 4)
    assert ours["batch_size"] is None


def test_time_is_set_against_the_multiplications_alone() -> None:
    found = figures()
    assert row(found, "mixed", "ours")["times_multiplications"] == 1.25
    assert row(found, "mixed", "ours")["multiply_share"] == 0.8
    # The same least number of products, at the same speed, for a peer.
    assert row(found, "mixed", "openvino")["multiply_share"] == 0.4
    assert found["workloads"]["mixed"]["multiplications"]["ours"]["gflops"] == 50.0


def test_a_lost_workload_is_reported() -> None:
    assert figures()["lost"] == []
    found = figures(official=[fake({"mixed": 9.0, "short": 0.5})])
    assert found["lost"] == [{"workload": "short", "to": "official", "times_ours": 0.5}]


@pytest.mark.parametrize(
    ("dtype", "shift", "is_wrong"), [("float32", 0.002, True), ("bfloat16", 0.002, False)]
)
def test_scores_that_rounding_does_not_excuse_are_wrong(dtype: str, shift: float, is_wrong: bool) -> None:
    peer = fake({"mixed": 9.0, "short": 9.0}, dtype=dtype, shift=shift)
    found = figures(official=[peer])
    assert [one["name"] for one in found["wrong"]] == ["official"] * 2 * is_wrong
    assert row(found, "mixed", "official")["max_abs_diff"] == 0.002


def test_a_score_that_is_no_number_is_wrong() -> None:
    found = figures(official=[fake({"mixed": 9.0, "short": 9.0}, shift=float("nan"))])
    assert [one["name"] for one in found["wrong"]] == ["official", "official"]


def test_goals_are_judged() -> None:
    goals = {goal["goal"]: (goal["value"], goal["reached"]) for goal in figures()["goals"]}
    assert goals == {
        "mixed: 1.6 × as fast as openvino": (2.0, True),
        "short: 3.0 × as fast as openvino": (2.0, False),
        "mixed: at most 1.3 × the multiplications alone": (1.25, True),
        "memory: at most the weights and 1000 MB": (600.0, True),
    }


class FakeBench(core.Bench):
    """A benchmark whose runners return immediately."""

    def _run(
        self,
        contender: Contender,
        mode: str,
        settings: Settings,
        tasks: Sequence[tuple[Workload, Sequence[int]]],
    ) -> dict[str, Any]:
        if contender.name == "openvino":
            raise RunnerError("openvino_model ended with 1:\nTraceback")
        seconds = {one.name: 2.0 for one, _ in tasks}
        return fake(seconds, alone_s=1.0 if contender.is_ours else None)


def fake_bench(tmp_path: Path) -> FakeBench:
    (tmp_path / "model").mkdir()
    return FakeBench(
        model=tmp_path / "model",
        work=tmp_path,
        num_threads=2,
        dtype="auto",
        timeout_s=1.0,
        machine=MACHINE,
        workloads=WORKLOADS,
        warm_up=[("a", "b")],
        tokens={"mixed": 900, "short": 300},
    )


def test_tables_come_first_and_one_line_of_json_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contenders = core.chosen_contenders(["openvino", "official", "sentence-transformers"])
    found = core.run(fake_bench(tmp_path), contenders, repeat=2)
    core.show(found)
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[-1]) == found
    printed = "\n".join(lines[:-1])
    for text in ("mixed: 2 documents", "pairs/s", "multiplications alone", "50%", "Goals", "--search does"):
        assert text in printed
    assert "FAILED: openvino: openvino_model ended with 1:" in printed
    assert found["failed"] == {"openvino": "openvino_model ended with 1:"}


def test_processes_alternate_and_the_slow_recipe_runs_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contenders = core.chosen_contenders(["official", "sentence-transformers"])
    fake_bench(tmp_path).measure(contenders, 2)
    announced = [line.split(": ")[1] for line in capsys.readouterr().err.splitlines()]
    assert announced == ["ours", "sentence-transformers", "official", "ours", "sentence-transformers"]


def test_our_int8_runs_only_beside_another_int8() -> None:
    assert [one.name for one in core.chosen_contenders(["openvino"])] == ["ours", "openvino"]
    assert [one.name for one in core.chosen_contenders(["openvino-int8"])] == [
        "ours",
        "ours-int8",
        "openvino-int8",
    ]


def test_the_search_keeps_the_fastest_and_drops_a_slow_number_format(tmp_path: Path) -> None:
    tried: list[tuple[str, Mapping[str, Sequence[int]]]] = []

    def time_it(
        contender: Contender, dtype: str, sizes: Mapping[str, Sequence[int]]
    ) -> list[Mapping[str, Any]]:
        tried.append((dtype, sizes))
        slow = 5 if dtype == "bfloat16" else 1
        return [
            {"workload": name, "batch_size": size, "seconds": slow * abs(size - 3.5)}
            for name, every in sizes.items()
            for size in every
        ]

    peer = by_name("sentence-transformers")
    found = search(peer, {"mixed": 24, "long": 2}, ["float32", "bfloat16"], time_it)
    assert found == Settings("float32", {"mixed": 4, "long": 2}, was_searched=True)
    assert [dtype for dtype, _ in tried] == ["float32", "bfloat16", "float32"]

    path = tmp_path / "best.json"
    write_best({peer.name: found}, MACHINE, path)
    assert best_settings(peer, MACHINE, "auto", path) == found
    # On another machine, or in another number format, nothing is known.
    assert not best_settings(peer, {**MACHINE, "cores": 8}, "auto", path).was_searched
    assert best_settings(peer, MACHINE, "bfloat16", path) == Settings("bfloat16")


def test_where_nothing_was_searched_the_machines_own_number_format_is_taken(tmp_path: Path) -> None:
    peer, path = by_name("openvino"), tmp_path / "none.json"
    assert best_settings(peer, MACHINE, "auto", path).dtype == "float32"
    with_bf16 = {**MACHINE, "flags": ["avx512_bf16"]}
    assert best_settings(peer, with_bf16, "auto", path).dtype == "bfloat16"


def test_what_was_searched_names_contenders_that_exist() -> None:
    content = json.loads(BEST_FILE.read_text(encoding="utf-8")) if BEST_FILE.exists() else {}
    assert {name for entry in content.values() for name in entry} <= {one.name for one in CONTENDERS}


def test_every_contender_has_its_runner_and_its_pins() -> None:
    for contender in CONTENDERS:
        assert (PEERS / f"{contender.module}.py").exists()
        if contender.requirements:
            pins = (PEERS / contender.requirements).read_text(encoding="utf-8").splitlines()
            assert [pin for pin in pins if "==" not in pin or "://" in pin] == []


def test_peers_are_given_the_literal_template_of_the_family() -> None:
    family = get_family("qwen3")
    values = {"instruction": family.default_instruction or "", "query": "a cat", "document": "a text"}
    text = "".join(piece.render(values) for piece in family.pieces)
    assert f"{PREFIX}{body('a cat', 'a text')}{SUFFIX}" == text


class EchoScorer(Scorer):
    def __init__(self, job: Job) -> None:
        self.seen: list[int] = []

    def score(self, pairs: Sequence[tuple[str, str]], batch_size: int) -> list[float]:
        self.seen.append(batch_size)
        return [0.5] * len(pairs)

    def details(self) -> dict[str, Any]:
        return {"seen": self.seen}


def test_a_runner_warms_up_and_times_each_batch_size(tmp_path: Path) -> None:
    job = {
        "model": "m",
        "converted": "c",
        "mode": "measure",
        "dtype": "float32",
        "quantization": "none",
        "num_threads": 2,
        "warm_up": [["a", "b"]],
        "tasks": [{"workload": "mixed", "pairs": WORKLOADS[0].pairs, "batch_sizes": [4, 8]}],
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    result = measure(Job.read(tmp_path / "job.json"), EchoScorer)
    assert result["seen"] == [2, 4, 8]
    assert [(run["batch_size"], run["probabilities"]) for run in result["runs"]] == [
        (4, [0.5] * 2),
        (8, [0.5] * 2),
    ]
    json.dumps(result)


def test_the_machine_is_described_in_plain_json() -> None:
    found = machine.describe()
    json.dumps(found)
    assert found["cores"] >= 1
    assert machine.key(MACHINE) == "A processor 1-2, 2 cores, avx512_vnni"
    assert not machine.multiplies_bf16(MACHINE)


def test_options_that_make_no_sense_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["--workloads", "huge"], ["--peers", "nobody"], ["--documents", "mixed=0"]):
        with pytest.raises(SystemExit):
            core.parse(wrong)
    assert "use mixed, short, long, pairs" in capsys.readouterr().err
    options = core.parse(["--documents", "mixed=3,short=4", "--peers", "openvino"])
    assert (options.documents, options.peers) == ({"mixed": 3, "short": 4}, ["openvino"])
