"""Verbs about data and recipes: gallery, doctor, recipes.

The verb that makes a downloaded data set ready.
"""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from mezzotint.cli.app import Debug, Json, app, recipe_of
from mezzotint.recipe.schema import RecipeError, nearest


@app.command()
def gallery(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECIPE|DATA] [KEY=VALUE]…",
            help="A recipe and overrides, whose views are drawn; or images: a folder, a file, emoji, mnist5k, digits.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Page to write.")] = Path("gallery.html"),
    samples: Annotated[
        int | None,
        typer.Option(help="How many samples to show: 12, or 8 in the lab.", min=1, max=200),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            help="Draw the augmentation lab with this policy: rand_augment, or {kind: …, …}; may be repeated."
        ),
    ] = None,
    size: Annotated[
        int, typer.Option(help="Side at which images of a folder are read.", min=8)
    ] = 96,
    debug: Debug = False,
) -> None:
    """Draw the views that a recipe makes, with the parameters of each; or policies side by side on your images."""
    from mezzotint.recipe.recipe import Recipe, shipped

    given = list(arguments or ())
    unknown = bool(given) and "=" not in given[0] and given[0] not in shipped()
    if unknown and not _is_data(given[0]) and not Path(given[0]).exists():
        raise RecipeError(
            f"got {given[0]!r}, which does not exist; allowed is a recipe, a run, an image folder or file, or emoji, "
            f"mnist5k, digits: check the path.{nearest(given[0], [*shipped(), 'emoji', 'mnist5k', 'digits'])}"
        )
    if unknown and _is_data(given[0]):
        if len(given) > 1:
            raise RecipeError(
                f"got {given[1]!r} after data; allowed with data are options alone, such as --policy"
            )
        from mezzotint.data.open import open_images
        from mezzotint.report.lab import STRATEGIES, write_lab

        page = write_lab(
            open_images(given[0], size), out, policies=policy or STRATEGIES, samples=samples or 8
        )
        typer.echo(page)
        return
    name, overrides = recipe_of(arguments)
    recipe = Recipe.load(name, overrides)
    data, input, seed = recipe.data, recipe.encoder.input, recipe.run.seed
    if policy:
        from mezzotint.report.lab import write_lab

        typer.echo(
            write_lab(data, out, policies=policy, samples=samples or 8, seed=seed, input=input)
        )
        return
    from mezzotint.report.gallery import write_gallery

    typer.echo(write_gallery(data, recipe.views, input, out, samples=samples or 12, seed=seed))


def _is_data(name: str) -> bool:
    from mezzotint.data.open import is_data

    return is_data(name)


@app.command()
def doctor(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A folder of images.")],
    workers: Annotated[int | None, typer.Option(help="Processes. Default: one a core.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Examine a data set: unreadable, truncated, duplicate, leaked files; empty classes. Exit code 1 when it is ill."""
    from mezzotint.data.image.doctor import examine

    found = examine(path, workers=workers)
    typer.echo(found.to_json() if as_json else "\n".join(found.lines()))
    if not found.ok:
        raise typer.Exit(1)


@app.command()
def recipes(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME | SECTION.KIND]", help="A recipe to print, or a part to explain."
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """List the recipes; print one; or explain the keys of a part, such as `method.simclr` or `run`."""
    from mezzotint.detection.recipes import shipped_transfers
    from mezzotint.recipe.recipe import FAMILIES, shipped

    known = shipped() | {f"transfer/{title}": path for title, path in shipped_transfers().items()}
    if name is None:
        for title, path in known.items():
            typer.echo(
                f"{title:36}  {path.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}"
            )
    elif name in known:
        typer.echo(known[name].read_text(encoding="utf-8"))
    elif name.partition(".")[0] in FAMILIES:
        typer.echo(_explain(*name.partition(".")[::2]))
    else:
        sections = ", ".join(FAMILIES)
        raise RecipeError(
            f"got {name!r}; allowed is a recipe's name or one of {sections}.{nearest(name, [*known, *FAMILIES])}"
        )


def _explain(section: str, kind: str) -> str:
    """The keys of one kind, or the kinds of a section."""
    from mezzotint.recipe.recipe import FAMILIES
    from mezzotint.recipe.signatures import index

    members = index().members(FAMILIES[section])
    if not kind and len(members) > 1:
        return "\n".join(f"{section}.{name}: {entry.summary}" for name, entry in members.items())
    kind = kind or next(iter(members))
    if kind not in members:
        raise RecipeError(
            f"{section}: got {kind!r}; allowed: {', '.join(members)}.{nearest(kind, members)}"
        )
    lines = [members[kind].summary]
    for key in members[kind].keys.values():
        default = "needed" if key.required else f"default {json.dumps(key.default)}"
        lines.append(f"  {key.name} ({key.shown_type}, {default}): {key.doc}")
    return "\n".join(lines)


_DATASETS = ("audioset", "esc50", "kinetics")


@app.command()
def prepare(
    dataset: Annotated[
        str, typer.Argument(metavar="audioset|esc50|kinetics", help="Which data set.")
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The download; it is only read.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to. Default: DIR-prepared.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes. Default: one a core.", min=0)
    ] = None,
    format: Annotated[str, typer.Option(help="Of recordings: flac or wav.")] = "flac",
    side: Annotated[int, typer.Option(help="Of videos, the shorter one, in pixels.")] = 288,
    debug: Debug = False,
) -> None:
    """Build lists and resampled copies of a local download; goes on where it was stopped."""
    if dataset not in _DATASETS:
        raise RecipeError(
            f"got {dataset!r}; allowed: {', '.join(_DATASETS)}.{nearest(dataset, _DATASETS)}"
        )
    from mezzotint.data.prepare.prepare import prepare as make

    target = out or folder.with_name(f"{folder.resolve().name}-prepared")
    processes = os.cpu_count() or 1 if workers is None else workers
    done = make(dataset, folder, target, workers=processes, format=format, side=side)  # type: ignore[arg-type]
    typer.echo("\n".join([*done.lines(), str(target)]))
