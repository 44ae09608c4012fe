"""A verb about augmentation policies: search-policy."""

import json
from pathlib import Path
from typing import Annotated

import typer

from mezzotint.cli.app import Debug, Json, RunPath, app
from mezzotint.schema import RecipeError


@app.command(name="search-policy")
def search_policy(
    run: RunPath,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]…", help="Of its data, such as data.root=photos/; default: its own."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The policy file, .yaml, for fast_auto_augment.")] = Path("policy.yaml"),
    task: Annotated[str | None, typer.Option(help="Whose labels are used. Default: the data's first.")] = None,
    trials: Annotated[int, typer.Option(help="Sub-policies that are tried.")] = 200,
    keep: Annotated[int, typer.Option(help="How many of the best are kept.")] = 25,
    num_ops: Annotated[int, typer.Option(help="Operations in a sub-policy.")] = 2,
    samples: Annotated[int, typer.Option(help="Images to learn from, and as many to score on, at most.")] = 1024,
    seed: Annotated[int, typer.Option(help="Of the split, the candidates and their draws.")] = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Search an augmentation policy with a run's encoder, and write the file that `fast_auto_augment` reads."""
    if out.suffix not in (".yaml", ".yml") or not out.parent.is_dir():
        raise RecipeError(f"got --out {out}; allowed is a .yaml file in a directory that exists: change the name")
    from mezzotint.augment.sub_policies import write_sub_policies
    from mezzotint.encoders.saving import load_encoder
    from mezzotint.evaluate.policy_search import search_policy
    from mezzotint.train.recipe import Recipe

    encoder = load_encoder(run)
    data = Recipe.load(run, overrides or ()).data
    found, losses = search_policy(
        encoder, data, task=task, trials=trials, keep=keep, num_ops=num_ops, samples=samples, seed=seed
    )
    write_sub_policies(found, out)
    if as_json:
        typer.echo(json.dumps({"file": str(out), "cross_entropy": losses, "source": found.source}))
        return
    typer.echo(f"{out}: {found.source}; cross-entropy {losses[0]:.3f} to {losses[-1]:.3f} nats")
    typer.echo(f"to train with it: views.policy={{kind: fast_auto_augment, file: {out}}}")
