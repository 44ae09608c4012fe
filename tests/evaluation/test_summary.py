"""The summary of an evaluation: what is averaged, named, and compared."""

from dataclasses import replace
from pathlib import Path

from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.protocol import PTQ, Protocol
from mezzotint.evaluation.results import Baselines, Evaluation, paired, write_evaluation
from mezzotint.evaluation.summary import summary
from mezzotint.quant.bitwidth import Bits

PROTOCOL = Protocol(probe="knn", train=9, test=100)


def row(
    value: float,
    seed: int = 0,
    metric: str = "class/top1",
    protocol: Protocol = PROTOCOL,
    probe: str = "knn",
) -> Row:
    return Row(probe=probe, metric=metric, value=value, seed=seed, protocol=protocol)


def test_main_metrics_stand_beside_their_baselines(tmp_path: Path) -> None:
    compared = Baselines([row(0.3)], [row(0.4, seed) for seed in range(3)], [row(0.35)])
    write_evaluation(tmp_path, Evaluation([row(0.5), row(0.9, metric="class/top5")], ""), compared)
    line = ("class", "knn", "0.500 (0.404 – 0.596)", "0.400", "0.350", "0.300")
    assert summary(tmp_path) == [line]
    write_evaluation(
        tmp_path, Evaluation([row(0.5, protocol=Protocol(probe="knn"))], ""), Baselines()
    )
    assert summary(tmp_path) == [("class", "knn", "0.500", "–", "–", "–")]
    how = replace(PROTOCOL, ptq=PTQ(method="min_max", policy="ssql"))
    low = [
        row(0.46, protocol=how),
        row(0.07, metric="class/lost", protocol=how),
        row(0.03, metric="class/gained", protocol=how),
    ]
    low = [replace(entry, bits=Bits(4, 8)) for entry in low]
    write_evaluation(tmp_path, Evaluation([row(0.5), *low], ""), Baselines())
    half = (paired(0.03, 0.07, 100)[1] - paired(0.03, 0.07, 100)[0]) / 2
    line = ("class", "knn W4A8 min_max", f"0.460 (−0.040 ± {half:.3f})", "", "", "")
    assert summary(tmp_path)[1:] == [line]


def test_settings_of_a_probe_are_lines_and_never_averaged_as_seeds(tmp_path: Path) -> None:
    near, far = (Protocol.of("knn", k=k, metric="cosine", temperature=0.07) for k in (10, 200))
    lars = Protocol.of("mocov3", optimizer="lars", lr=0.1)
    sgds = [Protocol.of("airl_sgd", optimizer="sgd", lr=lr) for lr in (1.0, 30.0)]
    rows = [row(0.50, protocol=near), row(0.70, protocol=far)]
    rows += [row(0.4, protocol=lars, probe="sgd_linear")]
    rows += [row(v, protocol=p, probe="sgd_linear") for v, p in zip((0.2, 0.3), sgds, strict=True)]
    raw = [row(0.11, protocol=near), row(0.22, protocol=far)]
    write_evaluation(tmp_path, Evaluation(rows, ""), Baselines(raw))
    assert [(name, value, raw) for _, name, value, _, _, raw in summary(tmp_path)] == [
        ("knn k=10", "0.500", "0.110"),
        ("knn k=200", "0.700", "0.220"),
        ("sgd_linear mocov3", "0.400", "–"),
        ("sgd_linear airl_sgd lr=1", "0.200", "–"),
        ("sgd_linear airl_sgd lr=30", "0.300", "–"),
    ]


def test_the_branches_of_a_run_are_lines(tmp_path: Path) -> None:
    rows = [row(0.5), row(0.75).with_protocol(branch="target")]
    write_evaluation(tmp_path, Evaluation(rows, ""), Baselines())
    assert [line[1] for line in summary(tmp_path)] == ["knn branch=online", "knn branch=target"]


def test_tags_are_judged_by_mean_average_precision_with_every_probe(tmp_path: Path) -> None:
    rows = [
        row(0.24, metric="tag/map", probe="finetune"),
        row(0.12, metric="tag/auc", probe="finetune"),
        row(0.5, metric="pair/top1", probe="retrieval"),
        row(0.6, metric="pair/map", probe="retrieval"),
    ]
    write_evaluation(tmp_path, Evaluation(rows, ""), Baselines())
    assert [line[:2] for line in summary(tmp_path)] == [
        ("tag", "finetune mAP"),
        ("pair", "retrieval"),
    ]


def test_without_labels_the_summary_has_what_tells_a_collapse(tmp_path: Path) -> None:
    metrics = ("all/rankme", "all/rank_ratio", "all/alpha", "all/spread")

    def free(value: float) -> list[Row]:
        protocol = Protocol(probe="rank")
        return [row(value, metric=m, protocol=protocol, probe="rank") for m in metrics]

    write_evaluation(tmp_path, Evaluation(free(0.25), ""), Baselines(free(0.5), free(0.125)))
    assert summary(tmp_path) == [
        ("all", name, "0.250", "0.125", "–", "0.500") for name in ("rank_ratio", "spread")
    ]
    write_evaluation(tmp_path, Evaluation([row(0.5), *free(0.25)], ""), Baselines())
    assert [line[1] for line in summary(tmp_path)] == ["knn"]
    kept = Row(
        probe="neighbors",
        metric="all/knn_overlap",
        value=0.75,
        bits=Bits(4, 8),
        protocol=Protocol(probe="neighbors", ptq=PTQ(method="min_max", policy="ssql")),
    )
    write_evaluation(tmp_path, Evaluation([*free(0.25), kept], ""), Baselines())
    assert summary(tmp_path)[2:] == [("all", "kNN overlap W4A8 min_max", "0.750", "", "", "")]
