"""Verbs about data and recipes: gallery, doctor, recipes."""

import json
from pathlib import Path
from typing import Annotated

import typer

from mezzotint.cli.app import Arguments, Debug, Json, app, recipe_of
from mezzotint.schema import RecipeError, nearest


@app.command()
def gallery(
    arguments: Arguments = None,
    out: Annotated[Path, typer.Option(help="Page to write.")] = Path("gallery.html"),
    samples: Annotated[int, typer.Option(help="How many samples to show.", min=1, max=200)] = 12,
    debug: Debug = False,
) -> None:
    """Draw the views that a recipe makes, with the parameters of each."""
    name, overrides = recipe_of(arguments)
    from mezzotint.train.recipe import Recipe, read_recipe

    config = read_recipe(name, overrides)
    from mezzotint.report.gallery import write_gallery

    recipe = Recipe.build(config)
    typer.echo(
        write_gallery(recipe.data, recipe.views, recipe.encoder.input, out, samples=samples, seed=recipe.run.seed)
    )


@app.command()
def doctor(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A folder of images.")],
    workers: Annotated[int | None, typer.Option(help="Processes. Default: one a core.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Examine a data set: unreadable, truncated, duplicate, leaked files; empty classes. Exit code 1 when it is ill."""
    from mezzotint.data.doctor import examine

    found = examine(path, workers=workers)
    typer.echo(found.to_json() if as_json else "\n".join(found.lines()))
    if not found.ok:
        raise typer.Exit(1)


@app.command()
def recipes(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME | SECTION.KIND]", help="A recipe to print, or a part to explain.")
    ] = None,
    debug: Debug = False,
) -> None:
    """List the recipes; print one; or explain the keys of a part, such as `method.simclr` or `run`."""
    from mezzotint.train.recipe import FAMILIES, shipped

    known = shipped()
    if name is None:
        for title, path in known.items():
            typer.echo(f"{title:36}  {path.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}")
    elif name in known:
        typer.echo(known[name].read_text(encoding="utf-8"))
    elif name.partition(".")[0] in FAMILIES:
        typer.echo(_explain(*name.partition(".")[::2]))
    else:
        sections = ", ".join(FAMILIES)
        raise RecipeError(
            f"got {name!r}; allowed is a recipe's name or one of {sections}{nearest(name, [*known, *FAMILIES])}"
        )


def _explain(section: str, kind: str) -> str:
    """The keys of one kind, or the kinds of a section."""
    from mezzotint.signatures import index
    from mezzotint.train.recipe import FAMILIES

    members = index().members(FAMILIES[section])
    if not kind and len(members) > 1:
        return "\n".join(f"{section}.{name}: {entry.summary}" for name, entry in members.items())
    kind = kind or next(iter(members))
    if kind not in members:
        raise RecipeError(f"{section}: got {kind!r}; allowed: {', '.join(members)}{nearest(kind, members)}")
    lines = [members[kind].summary]
    for key in members[kind].keys.values():
        default = "needed" if key.required else f"default {json.dumps(key.default)}"
        lines.append(f"  {key.name} ({key.shown_type}, {default}): {key.doc}")
    return "\n".join(lines)
