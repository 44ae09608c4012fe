"""Data, views and encoder share a modality, or one sentence says what to change and what to try."""

import re
from typing import Any

import pytest

from mezzotint.modality.modality import modality_names, modality_of
from mezzotint.recipe.reading import read_raw, shipped, suggested
from mezzotint.recipe.recipe import (
    Plan,
    Recipe,
    read_recipe,
    require_one_modality,
    resolve_recipe,
)
from mezzotint.recipe.schema import RecipeError, class_of
from mezzotint.recipe.signatures import index

DATA: dict[str, dict[str, Any]] = {
    "image": {"kind": "embedded_images", "name": "digits"},
    "audio": {"kind": "speech"},
    "video": {"kind": "rotating_objects"},
    "points": {"kind": "furniture"},
    "series": {"kind": "smartwatch"},
    "tokens": {"kind": "emails"},
    "table": {"kind": "table_sample"},
    "image_text": {"kind": "emoji_names"},
}
ENCODERS = {
    "image": {"kind": "timm", "name": "resnet18"},
    "audio": {"kind": "audio_ntt"},
    "points": {"kind": "pointnet"},
    "series": {"kind": "resnet1d"},
    "tokens": {"kind": "ngrams"},
    "table": {"kind": "table_mlp"},
}
VIEWS: dict[str, dict[str, Any]] = {
    "image": {"kind": "two_views"},
    "audio": {"kind": "byol_a"},
    "video": {"kind": "transformed", "transforms": ["random_clip"]},
    "points": {"kind": "transformed", "transforms": ["point_jitter"]},
    "series": {"kind": "transformed", "transforms": ["series_jitter"]},
    "tokens": {"kind": "transformed", "transforms": ["token_mask"]},
    "table": {"kind": "transformed", "transforms": ["feature_drop"]},
    "image_text": {
        "kind": "transformed",
        "transforms": [{"kind": "image_and_text", "image": [], "text": []}],
    },
}
ANY_ENCODER = {"kind": "vit", "width": 8, "depth": 1, "heads": 2}
ANY_VIEWS = {"kind": "transformed", "transforms": ["randomized_quantization"]}


def config(data: Any, views: Any = ANY_VIEWS, encoder: Any = ANY_ENCODER) -> dict[str, Any]:
    return resolve_recipe(
        {"data": data, "views": views, "encoder": encoder, "method": "simclr",
         "optimizer": {"kind": "sgd", "lr": 0.1}}
    )  # fmt: skip


def test_every_modality_is_here() -> None:
    assert set(DATA) == set(VIEWS) == set(modality_names())
    specific = {m for kind in index().members("Encoder") for m in takes(kind, "Encoder")}
    assert specific == set(ENCODERS)


def takes(kind: str, family: str) -> frozenset[str]:
    modalities: frozenset[str] = class_of(kind, family).modalities
    return modalities


@pytest.mark.parametrize("modality", DATA)
def test_every_wrong_pair_is_refused_and_every_right_one_is_not(modality: str) -> None:
    data = DATA[modality]
    pairs = [("encoder", other, config(data, encoder=e)) for other, e in ENCODERS.items()]
    pairs += [("views", other, config(data, views=v)) for other, v in VIEWS.items()]
    for section, other, recipe in pairs:
        if other == modality:
            require_one_modality(recipe, modality)
            continue
        with pytest.raises(RecipeError) as caught:
            require_one_modality(recipe, modality)
        present, accepted = (modality_of(name).plural for name in (modality, other))
        pattern = (
            rf"`data` \({data['kind']}\) has {present}, but `({section}[\w.]*)` \(\w+\) takes "
            rf"[\w ]*{accepted}[\w ]*\. Change `\1` or `data`, "
            r"or try `mezzotint pretrain (\S+)`\."
        )
        match = re.fullmatch(pattern, str(caught.value))
        assert match, str(caught.value)
        require_one_modality(read_recipe(match[2]), modality)


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        (
            "image/emoji_simclr",
            "data.kind=speech",
            r"audio clips, but `views` \(two_views\) takes images",
        ),
        ("image/emoji_simclr", "data.kind=table_sample", r"has .*, but `encoder` \(resnet8\)"),
        (
            "audio/speech_simclr",
            "data.kind=furniture",
            r"has point clouds, but `encoder` \(resnet8\)",
        ),
        ("tokens/emails_simclr", "encoder.kind=table_mlp", r"takes rows\."),
        (
            "series/smartwatch_simclr",
            "data.kind=rotating_objects",
            r"has videos, but `encoder` \(resnet1d\)",
        ),
        (
            "video/rotating_objects_simclr",
            "views.kind=two_views",
            r"has videos, but `views` \(two_views\)",
        ),
    ],
)
def test_build_refuses_before_a_misleading_error(name: str, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.load(name, [override])


@pytest.mark.parametrize("name", shipped())
def test_shipped_recipes_share_a_modality(name: str) -> None:
    folder = name.partition("/")[0]
    if folder in modality_names():
        for phase in Plan.of(read_raw(name)).phases:
            require_one_modality(phase.config, folder)


def test_the_suggestion_is_a_recipe_for_this_data_or_this_modality() -> None:
    assert suggested("furniture") == "points/furniture_simclr"
    assert suggested("image_folder") == "image/folder_simclr"
    assert suggested("my_own") == ""
    for name in modality_names():
        require_one_modality(read_recipe(modality_of(name).recipe), name)
