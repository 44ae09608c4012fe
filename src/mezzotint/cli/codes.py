"""The verb that shows a run's codebook."""

from typing import Annotated

import typer

from mezzotint.cli.app import Debug, RunPath, app


@app.command()
def codes(
    run: RunPath,
    samples: Annotated[int, typer.Option(help="How many samples are looked at.", min=2)] = 256,
    frequent: Annotated[int, typer.Option(help="How many codes of each level are shown.", min=1)] = 12,
    debug: Debug = False,
) -> None:
    """Write RUN/codes.html and RUN/codes.json: which codes are used, what they look like, what each level adds."""
    from mezzotint.report.codes import write_codes

    typer.echo(write_codes(run, samples=samples, frequent=frequent))
