"""The verbs for data and recipes: gallery, doctor, recipes, prepare, shard."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from mezzotint.cli.app import Debug, Json, app, recipe_of
from mezzotint.files import shown
from mezzotint.recipe.schema import RecipeError, nearest
from mezzotint.recipe.signatures import ComponentEntry, Key, index


@app.command(
    epilog="Example: `mezzotint gallery photos/ --policy rand_augment --policy three_augment`"
)
def gallery(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECIPE|DATA] [KEY=VALUE]…",
            help="A recipe and overrides; or images: a folder, a file, emoji, mnist5k or digits.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="HTML page to write.")] = Path("gallery.html"),
    samples: Annotated[
        int | None,
        typer.Option(help="Samples to show. Default: 12, or 8 with --policy.", min=1, max=200),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            help="Compare this augmentation policy: rand_augment, or {kind: …, …}; may be repeated."
        ),
    ] = None,
    size: Annotated[
        int, typer.Option(help="Side to which images of a folder are resized.", min=8)
    ] = 96,
    debug: Debug = False,
) -> None:
    """Show the views that a recipe makes, with their parameters; or compare policies on images."""
    from mezzotint.recipe.reading import shipped
    from mezzotint.recipe.recipe import Recipe

    given = list(arguments or ())
    unknown = bool(given) and "=" not in given[0] and given[0] not in shipped()
    if unknown and not _is_data(given[0]) and not Path(given[0]).exists():
        raise RecipeError(
            f"There is no recipe or data {given[0]!r}. Give a recipe, a run, an image folder or "
            f"file, or emoji, mnist5k or digits."
            f"{nearest(given[0], [*shipped(), 'emoji', 'mnist5k', 'digits'])}"
        )
    if unknown and _is_data(given[0]):
        if len(given) > 1:
            raise RecipeError(
                f"Only options may follow data, got {given[1]!r}. "
                "Use --policy, or give a recipe instead of data."
            )
        typer.echo(_lab(given[0], size, out, policy, samples or 8))
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


def _lab(name: str, size: int, out: Path, policies: list[str] | None, samples: int) -> Path:
    """Write the page that compares augmentation policies on images."""
    from mezzotint.data.open import open_images
    from mezzotint.report.lab import POLICIES, write_lab

    images = open_images(name, size)
    return write_lab(images, out, policies=policies or POLICIES, samples=samples)


def _is_data(name: str) -> bool:
    from mezzotint.data.open import is_data

    return is_data(name)


@app.command(epilog="Example: `mezzotint doctor photos/ --workers 2`")
def doctor(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A folder or file of data.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]…", help="Keys of the source: kind=series y=target."),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes. Default: one per core.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Check data for unreadable, duplicate, leaked or contradictory samples and odd classes.

    Exits with 1 if problems are found.
    """
    from mezzotint.data.doctor import examine

    diagnosis = examine(path, overrides=overrides or (), workers=workers)
    typer.echo(diagnosis.to_json() if as_json else "\n".join(map(shown, diagnosis.lines())))
    if not diagnosis.ok:
        raise typer.Exit(1)


@app.command(epilog="Example: `mezzotint recipes method.simclr`")
def recipes(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[RECIPE | SECTION | KIND | KEY]",
            help="A recipe to print; or a section, kind or key to explain, such as run.log. "
            "Default: list all recipes.",
        ),
    ] = None,
    schema: Annotated[
        bool,
        typer.Option(
            "--schema", help="Print the JSON Schema of recipes, or with `transfer` of those."
        ),
    ] = False,
    debug: Debug = False,
) -> None:
    """List the recipes; print one; or explain a part of them, such as `run` or `method.simclr`."""
    from mezzotint.detection.recipes import shipped_transfers
    from mezzotint.recipe.reading import shipped
    from mezzotint.recipe.schema import FAMILIES

    if schema:
        typer.echo(json.dumps(_schema(name), indent=1, ensure_ascii=False))
        return
    known = shipped() | {f"transfer/{title}": path for title, path in shipped_transfers().items()}
    if name is None:
        for title, path in known.items():
            first_line = path.read_text(encoding="utf-8").splitlines()[0]
            typer.echo(f"{title:36}  {first_line.lstrip('# ')}")
    elif name in known:
        typer.echo(known[name].read_text(encoding="utf-8"))
    else:
        explanation = _explain(name)
        if not explanation:
            raise RecipeError(
                f"There is no recipe, section or kind {name!r}. Sections are "
                f"{', '.join(FAMILIES)}; `mezzotint recipes` lists the recipes."
                f"{nearest(name, [*known, *FAMILIES, *index().kinds])}"
            )
        typer.echo(explanation)


def _schema(name: str | None) -> dict[str, Any]:
    """The JSON Schema of recipes, or of those of `mezzotint transfer`."""
    from mezzotint.detection.recipes import FAMILIES as TRANSFER
    from mezzotint.recipe.json_schema import recipe_schema

    if name not in (None, "transfer"):
        raise RecipeError(
            f"--schema takes no name, or `transfer` for the recipes of `mezzotint transfer`, got "
            f"{name!r}. Leave it out."
        )
    return recipe_schema() if name is None else recipe_schema(TRANSFER)


def _explain(name: str) -> str:
    """Describe a section or family, a kind, or a key at any depth; empty when unknown.

    A dotted name goes from a family to one of its kinds, from a kind to one of its keys, and from a
    key to the family of the component that it takes.
    """
    from mezzotint.recipe.schema import FAMILIES

    path, *words = name.split(".")
    members = index().members(FAMILIES.get(path) or index().family_named(path) or "")
    entries, key = list(members.values()) or index().kinds.get(path, []), None
    owner: ComponentEntry | None = None
    if not entries:
        return ""
    for word in words:
        if word in members and (len(members) > 1 or word not in entries[0].keys):
            entries, members, key = [members[word]], {}, None
        elif len(members) > 1:
            raise RecipeError(
                f"`{path}.kind` must be one of {', '.join(members)}, got {word!r}."
                f"{nearest(word, members)}"
            )
        else:
            owner, key = _key(entries, word, path)
            members = index().members(key.family) if key.family else {}
            entries = list(members.values())
        path = f"{path}.{word}"
    shown = [] if owner is None or key is None else [_key_lines(owner, key)]
    if len(members) > 1:
        shown.append("\n".join(f"{path}.{kind}: {e.summary}" for kind, e in members.items()))
    else:
        shown += map(_keys, entries)
    return "\n\n".join(shown)


def _key(entries: Sequence[ComponentEntry], word: str, path: str) -> tuple[ComponentEntry, Key]:
    """Return a key of a kind, or of the first of several kinds of one name that has it."""
    keys = {name: (entry, key) for entry in reversed(entries) for name, key in entry.keys.items()}
    if word not in keys:
        known = f"Its keys are {', '.join(keys)}." if keys else "It is a plain value."
        raise RecipeError(f"`{path}` has no key {word!r}. {known}{nearest(word, keys)}")
    return keys[word]


def _keys(entry: ComponentEntry) -> str:
    """What a kind is, and each of its keys with type, default and meaning."""
    lines = [entry.summary]
    lines += (_key_lines(entry, key) for key in entry.keys.values())
    return "\n".join(lines)


def _key_lines(entry: ComponentEntry, key: Key) -> str:
    """Write a key with its type, range and default, and what it means."""
    from mezzotint.recipe.json_schema import accepted

    demand = accepted(entry, key)
    default = " (required)" if key.required else _default(key)
    meaning = f"{key.doc[:1].upper()}{key.doc[1:]}"
    return f"  {key.name}: {key.described}{demand and f', {demand}'}{default}\n      {meaning}"


def _default(key: Key) -> str:
    """`; default X`; nothing for the only component of a family with all of its own defaults."""
    value = key.default
    if isinstance(value, dict) and list(value) == ["kind"]:
        return "" if key.described.startswith("see ") else f"; default {value['kind']}"
    text = value if isinstance(value, str) else json.dumps(value).replace('"', "")
    return f"; default {text}"


_DATASETS = ("audioset", "esc50", "kinetics")


@app.command(epilog="Example: `mezzotint prepare esc50 ESC-50-master/ --out esc50/`")
def prepare(
    dataset: Annotated[
        str, typer.Argument(metavar="audioset|esc50|kinetics", help="The data set.")
    ],
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder of the download; it is only read.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to. Default: DIR-prepared.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes. Default: one per core.", min=0)
    ] = None,
    format: Annotated[str, typer.Option(help="Format of audio files: flac or wav.")] = "flac",
    side: Annotated[int, typer.Option(help="Shorter side of videos, in pixels.")] = 288,
    debug: Debug = False,
) -> None:
    """Prepare a downloaded data set: write lists and resampled copies; resumes when stopped."""
    if dataset not in _DATASETS:
        raise RecipeError(
            f"The data set must be one of {', '.join(_DATASETS)}, got {dataset!r}."
            f"{nearest(dataset, _DATASETS)}"
        )
    from mezzotint.data.prepare import prepare

    target = out or folder.with_name(f"{folder.resolve().name}-prepared")
    processes = os.cpu_count() or 1 if workers is None else workers
    done = prepare.prepare(dataset, folder, target, workers=processes, format=format, side=side)  # type: ignore[arg-type]
    typer.echo("\n".join(map(shown, [*done.lines(), str(target)])))


@app.command(epilog="Example: `mezzotint shard photos/ shards/ holdout=0.1`")
def shard(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A folder of images or audio.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder for the shards.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]…", help="Keys of the source: holdout=0.1 files=a.csv."),
    ] = None,
    samples: Annotated[int, typer.Option(help="Samples of a shard.", min=1)] = 10_000,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a folder of images or audio as tar files with an index, for disks and URLs.

    Train on them with data.kind=image_shards or audio_shards, and data.root=OUT.
    """
    from mezzotint.data.doctor import opened
    from mezzotint.data.prepare.shard import shard as write_shards

    done = write_shards(opened(os.fspath(data), overrides or ()), out, samples=samples)
    if as_json:
        facts = {"splits": dict(done.splits), "shards": len(done.shards), "bytes": done.bytes}
        typer.echo(json.dumps({**facts, "missing": done.missing, "out": str(out)}))
    else:
        typer.echo("\n".join(map(shown, [*done.lines(), str(out)])))
