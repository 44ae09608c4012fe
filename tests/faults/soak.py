"""Random kills, flipped bits and bad files for as long as you like: `make soak`.

    make soak SOAK="--kills 500 --flips 3000 --files 5000 --seed 0"

Each outcome is a line of JSON below `--out`, so that a soak that was stopped goes on where it was;
the same seed makes the same kills, flips and files. The end is a table, and `soak.json`.
"""

import argparse
import functools
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.faults import kills
from tests.faults.flips import Flips
from tests.faults.fuzz import readers, try_file
from tests.faults.isolated import run_isolated
from tests.faults.victims import Stem

_CHAIN = 8
InTime = Callable[[], bool]


def _lines(path: Path) -> list[dict[str, Any]]:
    """Read the outcomes; the last line of a soak that was killed may be half of one."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def soak_kills(out: Path, count: int, seed: int, *, in_time: InTime) -> None:
    """Kill commands until there were `count` kills; append the outcome of each chain."""
    path, inputs = out / "kills.jsonl", out / "kills" / "inputs"
    if not (inputs / "done").is_file():
        inputs.mkdir(parents=True, exist_ok=True)
        kills.make_inputs(inputs)
        (inputs / "done").touch()
    before = [line for line in _lines(path) if line["seed"] == seed]
    total, done = sum(len(line["kills"]) for line in before), {line["chain"] for line in before}
    stored = out / "golden.json"
    golden = {name: kills.Golden(**facts) for name, facts in _stored(stored).items()}
    todo = (number for number in range(10 * count) if number not in done)
    jobs = kills.jobs()
    if total >= count:
        return
    with Stem() as stem:
        killer = kills.Killer(inputs, stem)
        while total < count and in_time():
            chain = next(todo)
            job = jobs[chain % len(jobs)]
            if job.name not in golden:
                golden[job.name] = killer.golden(job)
                facts = {name: asdict(one) for name, one in golden.items()}
                stored.write_text(json.dumps(facts), encoding="utf-8")
            most = min(_CHAIN, count - total)
            outcome = killer.run_chain(job, golden[job.name], seed * 1_000_003 + chain, most)
            total += len(outcome.kills)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**asdict(outcome), "chain": chain, "seed": seed}) + "\n")


def _stored(path: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return facts


def kills_table(lines: list[dict[str, Any]]) -> Iterator[tuple[str, int, int, int, int, int]]:
    """Sum kills, those of new interpreters, lost, stuck and orphans of each command, and of all."""
    sums: dict[str, Counter[str]] = {}
    for line in lines:
        for name in (line["job"], "all"):
            counts = sums.setdefault(name, Counter())
            counts["kills"] += len(line["kills"])
            counts["new"] += sum(how == "start" for how, _, _ in line["kills"])
            for kind in ("lost", "stuck", "orphans"):
                counts[kind] += bool(line[kind])
    for name in sorted(sums, key=lambda name: (name == "all", name)):
        c = sums[name]
        yield name, c["kills"], c["new"], c["lost"], c["stuck"], c["orphans"]


def moments(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Count kills by fifths of the time of a command that nobody kills, and kills of groups."""
    found = [kill for line in lines for kill in line["kills"]]
    fifths = [sum(min(4, int(5 * at)) == fifth for _, _, at in found) for fifth in range(5)]
    return {"fifths": fifths, "groups": sum(group for _, group, _ in found)}


def make_run(root: Path) -> Path:
    """Make a run with everything: maps, evaluation, exports in all formats, a bundle."""
    from mezzotint.cli.app import run

    folder = root / "run"
    short = [
        "data.name=digits", "run.batch_size=256", "run.log.knn_epochs=0", "run.epochs=1",
        "run.log.every_steps=1", "run.checkpoints.every_steps=3",
    ]  # fmt: skip
    train = ["pretrain", "image/emoji_simclr", *short, "--train-only", "--quiet"]
    small = ["encoder={kind: resnet8, stem: small, width: 2}"]
    verbs = [
        [*train, *small, "run.log.map_epochs=1", "--out", str(folder)],
        ["evaluate", str(folder), "evaluate.probes=[knn]", "evaluate.bits=[W8A8]", "--quiet"],
        ["layers", str(folder)],
        *(["export", str(folder), "--format", name] for name in ("packed", "torch_export")),
        ["export", str(folder), "--format", "onnx", "--bits", "fp32"],
    ]
    for verb in verbs:
        assert run(verb) == 0, verb
    bad = [*train, *small, "optimizer.lr=1e38", "schedule={kind: cosine}", "--out"]
    assert run([*bad, str(root / "stopped")]) == 1
    return folder


def soak_flips(out: Path, count: int, seed: int, *, in_time: InTime) -> None:
    """Flip bits until there were `count`."""
    good, path = out / "flips" / "good", out / f"flips-{seed}.jsonl"
    done = {line["number"] for line in _lines(path)}
    todo = [number for number in range(count) if number not in done]
    if not todo:
        return
    if not (good / "run").is_dir():
        making = out / "flips" / "making"
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        make_run(making)
        making.rename(good)
    run_isolated(Flips(good, out / "flips" / "copy", seed), todo, path, in_time)


def soak_files(out: Path, count: int, seed: int, *, in_time: InTime) -> None:
    """Let readers read damaged files until there were `count`."""
    path = out / f"files-{seed}.jsonl"
    done = {line["number"] for line in _lines(path)}
    todo = [number for number in range(count) if number not in done]
    if todo:
        all_readers, folder = readers(), out / "file"
        try_one = functools.partial(try_file, all_readers, folder, seed)
        run_isolated(try_one, todo, path, in_time)


def outcomes(lines: list[dict[str, Any]], by: str) -> dict[str, dict[str, int]]:
    """Count the outcomes by reader or by file, and of all."""
    counts: dict[str, Counter[str]] = {"all": Counter()}
    for line in lines:
        for name in (line.get(by, "?"), "all"):
            counts.setdefault(name, Counter())[line["outcome"]] += 1
    return {name: dict(c) for name, c in sorted(counts.items())}


_GOOD = {"read", "refused", "found", "harmless"}


def summary(out: Path, seed: int) -> dict[str, Any]:
    """Read all outcomes: of kills by command, of flips by file, of files by reader."""
    flipped, read = _lines(out / f"flips-{seed}.jsonl"), _lines(out / f"files-{seed}.jsonl")
    faults = [line for line in (*flipped, *read) if line["outcome"] not in _GOOD]
    killed = _lines(out / "kills.jsonl")
    faults += [line for line in killed if line["lost"] or line["stuck"] or line["orphans"]]
    return {
        "kills": list(kills_table(killed)),
        "moments": moments(killed),
        "flips": outcomes(flipped, "file"),
        "files": outcomes(read, "reader"),
        "faults": faults,
    }


def main() -> None:
    """Run the soak, print the table, and write `soak.json`; exit with 1 after a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, count in (("kills", 500), ("flips", 3000), ("files", 5000)):
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("--out", type=Path, default=Path("build/soak"))
    given = parser.parse_args()
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    end: float = time.monotonic() + given.seconds

    def in_time() -> bool:
        return time.monotonic() < end

    soak_files(out, given.files, given.seed, in_time=in_time)
    soak_flips(out, given.flips, given.seed, in_time=in_time)
    soak_kills(out, given.kills, given.seed, in_time=in_time)
    facts = summary(out, given.seed)
    (out / "soak.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print("command | kills | new interpreters | lost | stuck | orphans")
    for row in facts["kills"]:
        print(*row, sep=" | ")
    for name in ("flips", "files"):
        print(f"{name}:", ", ".join(f"{n} {w}" for w, n in facts[name]["all"].items()) or "none")
    for fault in facts["faults"][:20]:
        print(json.dumps(fault)[:400])
    sys.exit(1 if facts["faults"] else 0)


if __name__ == "__main__":
    main()
