"""Verbs about checkpoints of other projects."""

from pathlib import Path
from typing import Annotated

import typer

from mezzotint.cli.app import Debug, app
from mezzotint.schema import RecipeError

_STATISTICS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


@app.command(name="import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .safetensors file or a torch checkpoint.")],
    keys: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="Of the encoder: kind=resnet18 stem=small.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory to write the encoder to.")] = Path("encoder"),
    layout: Annotated[str, typer.Option("--from", help="auto, plain or ssql.")] = "auto",
    size: Annotated[int, typer.Option(help="Side of the images that the network takes.")] = 224,
    normalization: Annotated[
        str, typer.Option(help="That it was trained with: imagenet, cifar10 or half.")
    ] = "imagenet",
    debug: Debug = False,
) -> None:
    """Take over an encoder that another project trained, to evaluate, export or embed with it."""
    from mezzotint.encoders.saving import save_encoder
    from mezzotint.schema import construct, resolve
    from mezzotint.train.recipe import parse_yaml
    from mezzotint.transfer.load import load_checkpoint
    from mezzotint.types import Input

    for name, value, allowed in (
        ("--from", layout, ("auto", "plain", "ssql")),
        ("--normalization", normalization, tuple(_STATISTICS)),
    ):
        if value not in allowed:
            raise RecipeError(f"got {name} {value!r}; allowed: {', '.join(allowed)}")
    config = {}
    for key in keys or ():
        name, equals, value = key.partition("=")
        if not equals:
            raise RecipeError(f"got {key!r}; allowed are keys of the encoder, such as kind=resnet18")
        config[name.removeprefix("encoder.")] = parse_yaml(value, name)
    mean, std = _STATISTICS[normalization]
    resolved = resolve(config, "Encoder", "encoder")
    encoder = construct(resolved, "Encoder", {"Encoder": (Input((3, size, size), mean, std),)})
    loaded = load_checkpoint(encoder, file, layout)  # type: ignore[arg-type]
    save_encoder(encoder, out, {"imported_from": file.name, "layout": loaded.layout, "branch": loaded.branch})
    typer.echo(f"{loaded}\n{out}")
