"""The verbs that look into runs: layers, codes, invariances, search-policy, compare, study."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mezzotint.cli.app import (
    Data,
    Debug,
    EncoderPath,
    Json,
    Quiet,
    RunPath,
    app,
    data_of,
    print_table,
)
from mezzotint.files import read_json
from mezzotint.recipe.schema import RecipeError

if TYPE_CHECKING:
    from mezzotint.evaluation.probe import Row
    from mezzotint.evaluation.results import Baselines
    from mezzotint.runs.compare import ComparisonTable


@app.command(epilog="Example: `mezzotint layers runs/photos --bits W2A4`")
def layers(
    run: EncoderPath,
    arguments: Data = None,
    bits: Annotated[
        str, typer.Option(help="Bits of the one layer that is quantized, such as W4A4.")
    ] = "W4A4",
    policy: Annotated[
        str | None,
        typer.Option(help="Layers to quantize: ssql, all or first_last_8. Default: the run's."),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(help="Training samples to calibrate and measure on. Default: 256.", min=1),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Rank the layers of an encoder by what low bits cost, one at a time, and find outliers."""
    from mezzotint.evaluation.progress import part, showing
    from mezzotint.quant.bitwidth import Bits
    from mezzotint.report.page import write_report
    from mezzotint.runs.analysis import measure_layers

    name, overrides = data_of(arguments)
    with showing("bar"):
        analysis = measure_layers(
            run,
            Bits.parse(bits, "--bits"),
            data=name,
            overrides=overrides,
            policy=policy,
            samples=samples,
        )
        with part("page"):
            page = write_report(run)
    if as_json:
        typer.echo(json.dumps(analysis.as_json() | {"report": str(page)}))
        return
    print_table(
        ("layer", f"at {analysis.bits}", "squared error", "cosine"),
        [
            (row.name, row.what, f"{row.error:.5f}", f"{row.cosine:.5f}")
            for row in analysis.sensitivity
        ],
    )
    typer.echo("")
    print_table(
        (
            "layer",
            "values",
            "kurtosis",
            "peak, in std",
            "beyond 6 std",
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
            for row in analysis.distributions
        ],
    )
    typer.echo(f"report: {page}")


@app.command(epilog="Example: `mezzotint codes runs/bridle --samples 256`")
def codes(
    run: RunPath,
    samples: Annotated[int, typer.Option(help="Samples to encode.", min=2)] = 256,
    frequent: Annotated[
        int, typer.Option(help="Most frequent codes to show per level.", min=1)
    ] = 12,
    debug: Debug = False,
) -> None:
    """Show a run's codebook: which codes are used, what they stand for, what each level adds.

    Writes RUN/codes.html and RUN/codes.json.
    """
    from mezzotint.report.codes import write_codes

    typer.echo(write_codes(run, samples=samples, frequent=frequent))


@app.command(epilog="Example: `mezzotint invariances runs/photos --samples 512 --seeds 3`")
def invariances(
    run: EncoderPath,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[DATA] [KEY=VALUE]…",
            help="Data, and overrides of the views, such as views.policy.kind=mocov2. Default: the "
            "run's.",
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option(help="Samples; half of them are held out for testing.")
    ] = 2000,
    seeds: Annotated[
        int, typer.Option(help="Repeats, each with another untrained encoder.", min=1)
    ] = 3,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure what a run is invariant to: predict the parameters of views from features."""
    from mezzotint.evaluation.progress import part, showing
    from mezzotint.report.page import write_report
    from mezzotint.runs.analysis import measure_invariances

    name, overrides = data_of(arguments)
    options = {"samples": samples, "seeds": seeds}
    with showing("bar"):
        rows, baselines = measure_invariances(run, overrides, data=name, **options)
        table = _table(rows, baselines)
        with part("page"):
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
    print_table(("parameter of the views", "measure", "encoder", "untrained", "raw input"), lines)
    typer.echo(f"report: {page}")


def _table(rows: "list[Row]", baselines: "Baselines") -> list[dict[str, str | float | None]]:
    """Average over the seeds; one line per parameter."""

    def mean(among: "list[Row]", metric: str) -> float | None:
        values = [row.value for row in among if row.metric == metric and row.probe == "invariance"]
        return sum(values) / len(values) if values else None

    lines: list[dict[str, str | float | None]] = []
    for metric in dict.fromkeys(row.metric for row in rows):
        name, _, measure = metric.removeprefix("views/").rpartition(".")
        columns = {"encoder": rows, "untrained": baselines.untrained, "raw": baselines.raw}
        lines.append(
            {
                "parameter": name,
                "measure": measure,
                **{k: mean(v, metric) for k, v in columns.items()},
            }
        )
    return lines


@app.command(
    name="search-policy",
    epilog="Example: `mezzotint search-policy runs/photos --out policy.yaml --trials 200`",
)
def search_policy(
    run: RunPath,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]…",
            help="Overrides of the data, such as data.root=photos/. Default: the run's.",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Policy file to write (.yaml), for fast_auto_augment.")
    ] = Path("policy.yaml"),
    task: Annotated[
        str | None, typer.Option(help="Task whose labels are used. Default: the data's first.")
    ] = None,
    trials: Annotated[int, typer.Option(help="Candidate sub-policies.")] = 200,
    keep: Annotated[int, typer.Option(help="Best sub-policies to keep.")] = 25,
    num_ops: Annotated[int, typer.Option(help="Operations per sub-policy.")] = 2,
    samples: Annotated[
        int, typer.Option(help="Images to fit on, and as many to score on, at most.")
    ] = 1024,
    seed: Annotated[
        int, typer.Option(help="Seed of the split, the candidates and their parameters.")
    ] = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Search an augmentation policy with a run's encoder, for `fast_auto_augment`."""
    if out.suffix not in (".yaml", ".yml") or not out.parent.is_dir():
        raise RecipeError(
            f"--out must be a .yaml file in a directory that exists, got {out}. Change the name."
        )
    from mezzotint.augment.image.auto_augment import write_sub_policies
    from mezzotint.encoders.saving import load_encoder
    from mezzotint.evaluation.measurement import Measurement
    from mezzotint.evaluation.policy_search import search_policy
    from mezzotint.recipe.recipe import Recipe

    encoder = load_encoder(run)
    data = Recipe.load(run, overrides or ()).data
    policy, losses = search_policy(
        Measurement(encoder, data),
        task=task,
        trials=trials,
        keep=keep,
        num_ops=num_ops,
        samples=samples,
        seed=seed,
    )
    write_sub_policies(policy, out)
    if as_json:
        typer.echo(json.dumps({"file": str(out), "cross_entropy": losses, "source": policy.source}))
        return
    typer.echo(f"{out}: {policy.source}; cross-entropy {losses[0]:.3f} to {losses[-1]:.3f} nats")
    typer.echo(f"Train with it: views.policy={{kind: fast_auto_augment, file: {out}}}")


@app.command(epilog="Example: `mezzotint replay runs/photos/postmortem/step-00000120`")
def replay(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="RUN/postmortem/step-…, of a stopped run.")
    ],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run the step again that stopped a run with NaN or inf, and name where it began.

    Exits with 1 if the step does not stop the run again.
    """
    from mezzotint.train.replay import replay as run_again

    done = run_again(str(bundle))
    if as_json:
        values: dict[str, Any] = {"step": done.step, "loss": done.loss, "grad_norm": done.grad_norm}
        where = {"same": done.is_same, "first": done.first, "samples": list(done.samples)}
        typer.echo(json.dumps({**values, **where}))
    else:
        typer.echo(str(done))
    if not done.is_same:
        raise typer.Exit(1)


@app.command(
    epilog="Example: `mezzotint compare runs/simclr runs/ssql runs/byol --out comparison/`"
)
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN RUN…", help="Evaluated runs; the first one is the reference."),
    ],
    out: Annotated[
        Path, typer.Option(help="Directory to write table.md, table.json and index.html to.")
    ] = Path("comparison"),
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare runs, grouping those that differ only in seed, with intervals and differences."""
    if out.is_file():
        raise RecipeError(
            f"--out must be a directory for table.md, table.json and index.html, and {out} is a "
            "file. Choose another --out."
        )
    from mezzotint.runs import compare

    table = compare.compare(compare.arms_of(runs))
    compare.require_common_task(table)
    compare.write_table(table, out)
    _show(table, out, as_json)


@app.command(epilog="Example: `mezzotint study siamese_factors --seeds 3 run.epochs=5`")
def study(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A study file, or the name of a shipped study.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]…", help="Overrides of every run, such as run.epochs=5."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory of the study. Default: studies/NAME.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Number of seeds, from 0. Default: the file's.", min=1)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the runs; train nothing.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a grid of recipes with several seeds, and compare them; finished runs are reused."""
    from mezzotint.runs.study import read_study, run_study

    plan = read_study(file, overrides or (), range(seeds) if seeds else ())
    folder = out or Path("studies") / Path(file).stem
    if dry_run:
        for name, own in plan.arms.items():
            typer.echo(f"{name:32}  {' '.join(own)}")
        typer.echo(
            f"{len(plan.arms) * len(plan.seeds)} runs: {len(plan.arms)} arms, "
            f"seeds {plan.seeds}, in {folder}"
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
        content = read_json(folder / "table.json")
        typer.echo(json.dumps({**content, "page": str(page)}))
    else:
        typer.echo(f"{as_markdown(table)}\n{page}")
