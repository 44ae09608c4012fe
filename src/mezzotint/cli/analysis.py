"""The verb about the layers of a run's encoder.

The verb that shows a run's codebook.

A verb about what a run's features tell of its views: invariances.

A verb about augmentation policies: search-policy.

Verbs about many runs: compare, study.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mezzotint.cli.app import Debug, Json, Quiet, RunPath, app, print_table
from mezzotint.recipe.schema import RecipeError

if TYPE_CHECKING:
    from mezzotint.evaluation.probe import Row
    from mezzotint.evaluation.results import Baselines
    from mezzotint.runs.compare import ComparisonTable


@app.command()
def layers(
    run: RunPath,
    bits: Annotated[
        str, typer.Option(help="Weights/activations of the one layer that is quantized.")
    ] = "4/4",
    policy: Annotated[
        str | None, typer.Option(help="Which layers: ssql, all, first_last_8. Default: its own.")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(help="Training samples for ranges and figures; 256 by default.", min=1),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Tell which layers of a run lose most at low bits, quantized one at a time, and which have outliers."""
    from mezzotint.report.page import write_report
    from mezzotint.runs.analysis import measure_layers

    found = measure_layers(run, bits, policy=policy, samples=samples)
    page = write_report(run)
    if as_json:
        typer.echo(json.dumps(found.as_json() | {"report": str(page)}))
        return
    print_table(
        ("layer", f"at {found.bits}", "squared error", "cosine"),
        [
            (row.name, row.what, f"{row.error:.5f}", f"{row.cosine:.5f}")
            for row in found.sensitivity
        ],
    )
    typer.echo("")
    print_table(
        (
            "layer",
            "values",
            "kurtosis",
            "peak, in deviations",
            "beyond 6",
            "widest channel to median",
        ),
        [
            (
                row.name,
                row.what,
                f"{row.kurtosis:.1f}",
                f"{row.peak:.1f}",
                f"{row.outliers:.2%}",
                f"{row.channel_ratio:.1f}",
            )
            for row in found.distributions
        ],
    )
    typer.echo(f"report: {page}")


@app.command()
def codes(
    run: RunPath,
    samples: Annotated[int, typer.Option(help="How many samples are looked at.", min=2)] = 256,
    frequent: Annotated[
        int, typer.Option(help="How many codes of each level are shown.", min=1)
    ] = 12,
    debug: Debug = False,
) -> None:
    """Write RUN/codes.html and RUN/codes.json: which codes are used, what they look like, what each level adds."""
    from mezzotint.report.codes import write_codes

    typer.echo(write_codes(run, samples=samples, frequent=frequent))


@app.command()
def invariances(
    run: RunPath,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]…",
            help="Of the views, such as views.policy.kind=mocov2; default: its own.",
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option(help="How many samples, of which half are held out.")
    ] = 2000,
    seeds: Annotated[
        int, typer.Option(help="Repeats, each with an untrained encoder of its own.", min=1)
    ] = 3,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Tell which invariances a run learned: how well what was drawn for a view can be predicted from its features."""
    from mezzotint.report.page import write_report
    from mezzotint.runs.analysis import measure_invariances

    rows, beside = measure_invariances(run, overrides or (), samples=samples, seeds=seeds)
    table = _table(rows, beside)
    page: Path = write_report(run)
    if as_json:
        typer.echo(json.dumps({"invariances": table, "report": str(page)}))
        return
    lines = [
        (
            str(line["parameter"]),
            str(line["measure"]),
            *(
                "–" if line[key] is None else f"{line[key]:.3f}"
                for key in ("encoder", "untrained", "raw")
            ),
        )
        for line in table
    ]
    print_table(("drawn parameter", "measure", "encoder", "untrained", "raw input"), lines)
    typer.echo(f"report: {page}")


def _table(rows: "list[Row]", beside: "Baselines") -> list[dict[str, str | float | None]]:
    """Means over the seeds, a line a parameter."""

    def mean(among: "list[Row]", metric: str) -> float | None:
        values = [row.value for row in among if row.metric == metric and row.probe == "invariance"]
        return sum(values) / len(values) if values else None

    lines: list[dict[str, str | float | None]] = []
    for metric in dict.fromkeys(row.metric for row in rows):
        name, _, measure = metric.removeprefix("views/").rpartition(".")
        figures = {"encoder": rows, "untrained": beside.untrained, "raw": beside.raw}
        lines.append(
            {
                "parameter": name,
                "measure": measure,
                **{k: mean(v, metric) for k, v in figures.items()},
            }
        )
    return lines


@app.command(name="search-policy")
def search_policy(
    run: RunPath,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]…", help="Of its data, such as data.root=photos/; default: its own."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="The policy file, .yaml, for fast_auto_augment.")
    ] = Path("policy.yaml"),
    task: Annotated[
        str | None, typer.Option(help="Whose labels are used. Default: the data's first.")
    ] = None,
    trials: Annotated[int, typer.Option(help="Sub-policies that are tried.")] = 200,
    keep: Annotated[int, typer.Option(help="How many of the best are kept.")] = 25,
    num_ops: Annotated[int, typer.Option(help="Operations in a sub-policy.")] = 2,
    samples: Annotated[
        int, typer.Option(help="Images to learn from, and as many to score on, at most.")
    ] = 1024,
    seed: Annotated[int, typer.Option(help="Of the split, the candidates and their draws.")] = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Search an augmentation policy with a run's encoder, and write the file that `fast_auto_augment` reads."""
    if out.suffix not in (".yaml", ".yml") or not out.parent.is_dir():
        raise RecipeError(
            f"got --out {out}; allowed is a .yaml file in a directory that exists: change the name"
        )
    from mezzotint.augment.image.auto_augment import write_sub_policies
    from mezzotint.encoders.saving import load_encoder
    from mezzotint.evaluation.policy_search import search_policy
    from mezzotint.recipe.recipe import Recipe

    encoder = load_encoder(run)
    data = Recipe.load(run, overrides or ()).data
    found, losses = search_policy(
        encoder,
        data,
        task=task,
        trials=trials,
        keep=keep,
        num_ops=num_ops,
        samples=samples,
        seed=seed,
    )
    write_sub_policies(found, out)
    if as_json:
        typer.echo(json.dumps({"file": str(out), "cross_entropy": losses, "source": found.source}))
        return
    typer.echo(f"{out}: {found.source}; cross-entropy {losses[0]:.3f} to {losses[-1]:.3f} nats")
    typer.echo(f"to train with it: views.policy={{kind: fast_auto_augment, file: {out}}}")


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN RUN…", help="Evaluated runs; the first is the reference."),
    ],
    out: Annotated[
        Path, typer.Option(help="Directory for table.md, table.json and index.html.")
    ] = Path("comparison"),
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Put runs side by side, with intervals and differences; runs that differ in their seed alone are one arm."""
    from mezzotint.runs.compare import arms_of, write_table
    from mezzotint.runs.compare import compare as put

    table = put(arms_of(runs))
    write_table(table, out)
    _show(table, out, as_json)


@app.command()
def study(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A study file, or the name of a shipped one.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]…", help="Of every run, such as run.epochs=5."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory of the study. Default: studies/NAME.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Seeds 0 to N − 1 instead of the file's.", min=1)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the runs; train nothing.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a grid of recipes with several seeds, and compare them; what is finished is used again."""
    from mezzotint.runs.study import read_study, run_study

    plan = read_study(file, overrides or (), range(seeds) if seeds else ())
    folder = out or Path("studies") / Path(file).stem
    if dry_run:
        for name, own in plan.arms.items():
            typer.echo(f"{name:32}  {' '.join(own)}")
        typer.echo(
            f"{len(plan.arms) * len(plan.seeds)} runs: {len(plan.arms)} arms, seeds {plan.seeds}, in {folder}"
        )
        return
    silent = quiet or as_json
    table = run_study(plan, folder, say=(lambda _: None) if silent else typer.echo)
    if not quiet:
        _show(table, folder, as_json)


def _show(table: "ComparisonTable", folder: Path, as_json: bool) -> None:
    from mezzotint.report.study import write_study
    from mezzotint.runs.compare import as_markdown

    page = write_study(table, folder / "index.html")
    if as_json:
        content = json.loads((folder / "table.json").read_text(encoding="utf-8"))
        typer.echo(json.dumps({**content, "page": str(page)}))
    else:
        typer.echo(f"{as_markdown(table)}\n{page}")
