"""Images with text: packing, the embedded emoji with their names, and files with captions."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.data.image_text import CaptionedImages, EmojiNames, mismatched
from mezzotint.modality.image_text import pack, unpack
from mezzotint.modality.tokens import FIRST_TOKEN
from mezzotint.types import Unreadable


def test_unpack_is_the_inverse_of_pack() -> None:
    images = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    tokens = torch.randint(0, 40_000, (2, 7))
    colors, back = unpack(pack(images, tokens), 7)
    assert torch.equal(back, tokens) and torch.equal(colors, images.float() / 255.0)


def test_emoji_are_stored_with_their_names() -> None:
    source = EmojiNames(length=8)
    assert len(source) == 3822 and source.input.shape == (4, 32, 32) and source.input.text == 8
    position = source.ids.index("twitter/sweat_smile")
    assert "".join(chr(t - FIRST_TOKEN) for t in source.tokens[position].tolist()) == "sweat sm"
    colors, _ = unpack(source.read(position)["x"].unsqueeze(0), 8)
    assert torch.equal(colors[0], EmbeddedImages(name="emoji").images[position].float() / 255.0)


def test_normalizing_leaves_the_tokens_as_they_are() -> None:
    source = EmojiNames()
    x = source.read_batch(torch.arange(3))
    assert torch.equal(
        unpack(source.input.normalize(source.input.as_float(x)), 32)[1], source.tokens[:3].long()
    )


def test_the_question_of_mismatch() -> None:
    source = EmojiNames(length=16)
    everything, tasks = source.evaluation()
    task, count = tasks[-1], len(source)
    assert task.name == "mismatch/holdout" and len(everything) == 2 * count
    names = [name.partition("/")[2] for name in source.ids]
    test = set(task.test.tolist())
    said = {names[i] for i in range(count) if i in test}
    for index in (0, 1, count // 2, count - 1, *list(test)[:5]):
        position = index % count
        true, tokens = position, unpack(everything.read(position + count)["x"].unsqueeze(0), 16)[1]
        assert not torch.equal(tokens[0], source.tokens[true].long())
        assert (position in test) == (position + count in test)
        owners = [names[i] for i in range(count) if torch.equal(source.tokens[i].long(), tokens[0])]
        assert all((owner in said) == (position in test) for owner in owners)
    assert task.labels[:count].all() and not task.labels[count:].any()


def test_mismatched_keeps_to_side_and_leaves_the_group() -> None:
    rng = np.random.default_rng(0)
    group = rng.integers(0, 6, 50)
    test = group < 2
    other = mismatched(test, group)
    assert (test[other] == test).all() and (group[other] != group).all()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(12):
        Image.new("RGB", (40, 48), (number * 20, 0, 0)).save(tmp_path / f"{number}.png")
    return tmp_path


def coco(folder: Path) -> Path:
    images = [{"id": 7 + number, "file_name": f"{number}.png"} for number in range(12)]
    notes = [
        {"image_id": 7 + n % 12, "caption": f"picture {n % 12}, said {n // 12}"} for n in range(24)
    ]
    (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": notes}))
    return folder / "captions.json"


def test_captions_of_coco(folder: Path) -> None:
    source = CaptionedImages(root=str(folder), files=str(coco(folder)), size=16, length=20)
    assert len(source) == 24 and source.id_of(13) == "1.png"
    colors, tokens = unpack(source.read(13)["x"].unsqueeze(0), 20)
    assert "".join(chr(t - FIRST_TOKEN) for t in tokens[0].tolist() if t) == "picture 1, said 1"
    assert torch.allclose(colors[0, 0], torch.tensor(20 / 255))
    everything, (task,) = source.evaluation()
    assert len(everything) == 48
    paths = np.array([everything.id_of(i) for i in range(48)])
    assert not set(paths[task.train]) & set(paths[task.test])
    for index in range(24, 48):
        said = unpack(everything.read(index)["x"].unsqueeze(0), 20)[1][0].tolist()
        assert f"picture {paths[index][:-4]}," not in "".join(
            chr(t - FIRST_TOKEN) for t in said if t
        )


def test_captions_of_a_table(folder: Path) -> None:
    (folder / "list.csv").write_text('file,text\n0.png,"red, dark"\n3.png,\n2.png,käse\n')
    source = CaptionedImages(
        root=str(folder),
        files=str(folder / "list.csv"),
        path="file",
        caption="text",
        size=16,
        length=4,
    )
    assert [source.id_of(i) for i in range(len(source))] == ["0.png", "2.png"]
    assert source.evaluation()[1] == []
    other = CaptionedImages(
        root=str(folder),
        files=str(folder / "list.csv"),
        path="file",
        caption="text",
        size=16,
        length=5,
    )
    assert source.fingerprint() != other.fingerprint()


def test_bad_lists(folder: Path) -> None:
    def read(name: str, **keywords: int) -> CaptionedImages:
        return CaptionedImages(
            root=str(folder),
            files=str(folder / name),
            **{"size": 16, **keywords},  # type: ignore[arg-type]
        )

    with pytest.raises(ValueError, match="cannot be read .* It must be a table of UTF-8 text"):
        read("none.csv")
    (folder / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(
        ValueError, match="has no 'path'. It must be a CSV with the columns 'path' and 'caption'"
    ):
        read("other.csv")
    (folder / "other.json").write_text('{"images": []}')
    with pytest.raises(ValueError, match="has no 'annotations'"):
        read("other.json")
    (folder / "empty.csv").write_text("path,caption\n0.png,\n")
    with pytest.raises(ValueError, match="has no image with a caption"):
        read("empty.csv")
    with pytest.raises(ValueError, match="got length=300 and size=16"):
        read(coco(folder).name, length=300)


def test_a_missing_image_is_unreadable(folder: Path) -> None:
    (folder / "list.csv").write_text("path,caption\nnone.png,nothing\n")
    with pytest.raises(Unreadable, match=r"none\.png"):
        CaptionedImages(root=str(folder), files=str(folder / "list.csv"), size=16).read(0)
