import importlib.util
import io
import sys
import tarfile
import wave
from types import ModuleType

import numpy as np
import pytest
import torch

from mezzotint.data.audio.embedded import (
    FLOOR,
    FRAMES,
    LANGUAGES,
    MEL,
    STEP,
    Speech,
    digit_of_prompt,
    kind_of_prompt,
)
from mezzotint.data.audio.log_mel import log_mel
from mezzotint.data.source import Task
from tests import ROOT

SCRIPTS = ROOT / "scripts"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "make_embedded_speech", SCRIPTS / "make_embedded_speech.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_embedded_speech"] = module
    spec.loader.exec_module(module)
    return module


def tasks_of(source: Speech) -> dict[str, Task]:
    everything, tasks = source.evaluation()
    assert everything is source
    return {task.name: task for task in tasks}


def test_holds_what_it_says() -> None:
    source = Speech()
    assert (
        len(source) == 1565
        and source.input.shape == (1, 64, 64)
        and source.input.modality == "audio"
    )
    assert source.images.dtype == torch.float32 and tuple(source.images.shape) == (1565, 1, 64, 64)
    assert float(source.images.min()) == FLOOR and float(source.images.max()) < 8.0
    assert source.input.mean == pytest.approx((float(source.images.mean()),), abs=1e-4)
    assert source.input.std == pytest.approx((float(source.images.std()),), abs=1e-4)
    assert np.bincount(source.labels).tolist() == [302, 326, 300, 330, 307]
    sample = source.read(0)
    assert sample["id"] == "speech/en/digits/0" and sample["label"] == 0
    torch.testing.assert_close(source.read_batch(torch.tensor([0]))[0], sample["x"])
    assert "Allison Smith" in source.credit and "Maxim Topal" in source.credit


def test_no_recording_occurs_twice() -> None:
    source = Speech()
    assert len(set(source.names)) == len(source)
    assert len({row.numpy().tobytes() for row in source.images}) == len(source)


def test_tasks_never_share_a_recording_and_keep_languages_apart() -> None:
    source = Speech()
    tasks = tasks_of(source)
    assert list(tasks) == [
        "language/few-shot",
        *(f"kind/{name}" for name in LANGUAGES),
        "digit/holdout",
        "language/holdout",
    ]
    for name, task in tasks.items():
        assert not set(task.train.tolist()) & set(task.test.tolist()), name
        assert (
            set(task.labels[task.train])
            == set(task.labels[task.test])
            == set(range(len(task.classes)))
        ), name
    for position, language in enumerate(LANGUAGES):
        task = tasks[f"kind/{language}"]
        assert np.bincount(task.labels[task.train]).tolist() == [5, 5, 5] and len(task.test) >= 100
        assert (source.labels[np.concatenate([task.train, task.test])] == position).all()


def test_few_shots_of_a_language_leave_all_others_to_be_scored() -> None:
    task = tasks_of(Speech())["language/few-shot"]
    assert np.bincount(task.labels[task.train]).tolist() == [5] * 5 and len(task.test) == 1540


def test_language_holds_out_prompts_in_all_languages() -> None:
    source = Speech()
    task = tasks_of(source)["language/holdout"]
    prompt = [name.partition("/")[2] for name in source.names]
    assert not {prompt[i] for i in task.train} & {prompt[i] for i in task.test}
    assert len(task.test) / len(source) == pytest.approx(0.2, abs=0.02)


def test_digit_is_scored_on_words_that_were_not_learned() -> None:
    source = Speech()
    task = tasks_of(source)["digit/holdout"]
    number = [name.rpartition("/")[2].removeprefix("h-").rstrip("FMn") for name in source.names]
    assert {number[i] for i in task.test} == set("123456789")
    assert not {number[i] for i in task.train} & set("123456789") and len(task.test) == 94
    names = {
        source.names[i]: int(task.labels[i]) + 1 for i in np.concatenate([task.train, task.test])
    }
    assert (
        names["en/digits/h-14"]
        == names["es/digits/400"]
        == names["it/digits/40"]
        == names["ru/digits/4"]
        == 4
    )
    assert "en/digits/10" not in names and "es/digits/21" not in names


def test_draws_and_shots_change_what_is_learned_from() -> None:
    few, many, other = (tasks_of(Speech(**k))["kind/fr"] for k in ({}, {"shots": 8}, {"draw": 1}))
    assert set(few.train.tolist()) < set(many.train.tolist()) and len(many.train) == 24
    assert set(few.train.tolist()) != set(other.train.tolist())
    with pytest.raises(ValueError, match="`shots` must be 1 to 20, got 40. Each language"):
        Speech(shots=40)


@pytest.mark.parametrize(
    ("name", "kind", "digit"),
    [
        ("en/digits/4", "number", (4, True)),
        ("en/digits/h-4", "number", (4, True)),
        ("ru/digits/1n", "number", (1, True)),
        ("es/digits/100-and", "number", (1, False)),
        ("en/digits/14", "number", (4, False)),
        ("es/digits/400", "number", (4, False)),
        ("en/digits/0", "number", None),
        ("en/digits/10", "number", None),
        ("es/digits/21", "number", None),
        ("en/digits/hundred", "number", None),
        ("en/letters/z", "letter", None),
        ("en/letters/zed", "letter", None),
        ("en/letters/dash", None, None),
        ("en/phonetic/a_p", "spelling word", None),
        ("en/vm-INBOX", None, None),
        ("en/digits/day-1", None, None),
    ],
)
def test_names_say_what_is_spoken(
    name: str, kind: str | None, digit: tuple[int, bool] | None
) -> None:
    assert kind_of_prompt(name) == kind and digit_of_prompt(name) == digit


def test_spectrograms_are_trimmed_and_stored_in_steps(script: ModuleType) -> None:
    tone = (0.4 * np.sin(2 * np.pi * 600 * np.arange(4000) / 8000)).astype(np.float32)
    samples = np.concatenate([np.zeros(9000, np.float32), tone, np.zeros(5000, np.float32)])
    stored = script.spectrogram(samples)
    assert stored.shape == (64, FRAMES) and stored.dtype == np.uint8
    # Half a second of tone and 50 ms on either side: 31 frames, and nothing after them.
    assert (stored[:, 32:] == 0).all() and stored[:, 5:25].max(axis=0).min() > 0
    cut = samples[9000 - 400 : 13000 + 400].astype(np.float64)
    exact = log_mel(torch.from_numpy(cut), MEL).numpy()[:, 6:22]
    loud = exact > 0.0  # what does not depend on where in a period the recording was cut
    assert loud.sum() > 20
    assert np.abs(stored[:, 6:22] * STEP + FLOOR - exact)[loud].max() < 0.2
    long = script.spectrogram(np.tile(tone, 10))
    assert (long.max(axis=0) > 0).all()


def test_a_package_is_read_without_unpacking(script: ModuleType) -> None:
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(np.array([0, 16384, -32768], "<i2").tobytes())
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        for name in ("voice/digits/1.wav", "voice/readme.txt"):
            entry = tarfile.TarInfo(f"./usr/share/asterisk/sounds/{name}")
            entry.size = len(sound.getvalue())
            archive.addfile(entry, io.BytesIO(sound.getvalue()))
    package = b"!<arch>\n"
    for name, content in (
        ("debian-binary", b"2.0"),
        ("data.tar.xz", data.getvalue()),
    ):  # the first has an odd size
        package += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content
        )
        package += b"\n" * (len(content) % 2)
    found = script.prompts(package)
    assert list(found) == ["digits/1"]
    np.testing.assert_array_equal(found["digits/1"], np.array([0, 0.5, -1], np.float32))
    with pytest.raises(SystemExit, match="no Debian package"):
        script.members(b"something else")


def test_a_choice_has_all_words_and_some_phrases(script: ModuleType) -> None:
    phrases = [f"p{number:03d}" for number in range(500)]
    chosen = script.chosen([*phrases, "digits/1", "letters/a", "beep", "silence/1", "phonetic/a_p"])
    assert (
        chosen[:3] == ["digits/1", "letters/a", "phonetic/a_p"]
        and len(chosen) == 3 + script.PHRASES
    )
    assert chosen[3] == "p000" and chosen[-1] == "p499"
