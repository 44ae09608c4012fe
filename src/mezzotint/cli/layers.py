"""The verb about the layers of a run's encoder."""

import json
from typing import Annotated

import typer

from mezzotint.cli.app import Debug, Json, RunPath, app, print_table


@app.command()
def layers(
    run: RunPath,
    bits: Annotated[str, typer.Option(help="Weights/activations of the one layer that is quantized.")] = "4/4",
    policy: Annotated[str | None, typer.Option(help="Which layers: ssql, all, first_last_8. Default: its own.")] = None,
    samples: Annotated[
        int | None, typer.Option(help="Training samples for ranges and figures; 256 by default.", min=1)
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Tell which layers of a run lose most at low bits, quantized one at a time, and which have outliers."""
    from mezzotint.report.page import write_report
    from mezzotint.train.layers import measure_layers

    found = measure_layers(run, bits, policy=policy, samples=samples)
    page = write_report(run)
    if as_json:
        typer.echo(json.dumps(found.as_json() | {"report": str(page)}))
        return
    print_table(
        ("layer", f"at {found.bits}", "squared error", "cosine"),
        [(row.name, row.what, f"{row.error:.5f}", f"{row.cosine:.5f}") for row in found.sensitivity],
    )
    typer.echo("")
    print_table(
        ("layer", "values", "kurtosis", "peak, in deviations", "beyond 6", "widest channel to median"),
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
