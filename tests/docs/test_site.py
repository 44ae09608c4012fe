"""The site's generated pages: every public name, key and verb, and links between the files."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mezzotint.recipe.component import kind_of
from mezzotint.recipe.signatures import index
from tests import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import docs_reference  # noqa: E402
import docs_results  # noqa: E402
import docs_site  # noqa: E402


def test_every_public_name_has_a_block_on_the_page_of_its_package() -> None:
    assert len(docs_reference.public_names()) >= 12
    for package, names in docs_reference.public_names().items():
        page = docs_reference.pages()[f"reference/api/{package}.md"]
        module = importlib.import_module(package)
        for name in {*dir(module)} - {*vars(module)} | {*names}:
            if not name.startswith("_"):
                assert f"::: {package}.{name}\n" in page
                assert hasattr(module, name), f"{package}.{name}"


def test_a_class_leads_to_its_keys_and_to_its_paper() -> None:
    pages = docs_reference.pages()
    for kind, entry in index().members("Method").items():
        block = pages["reference/api/mezzotint.methods.md"].split(f".{entry.name}\n")[1]
        block = block.split("\n::: ")[0]
        assert f"](../recipes/method.md#{family_anchor('Method', kind)})" in block
        assert "\n    " in block and re.search(r"arXiv \d{4}\.\d{5}|et al\.", block), kind
    assert (
        "](../recipes/encoder.md#encoder-resnet8)" in pages["reference/api/mezzotint.encoders.md"]
    )


def test_every_key_of_every_kind_has_a_row_with_type_default_and_meaning() -> None:
    rows = 0
    for family, path in docs_reference.families().items():
        page = docs_reference.pages()[path]
        for kind, entry in index().members(family).items():
            title = f"## `{kind}` {{#{family_anchor(family, kind)}}}\n"
            assert title in page, f"{family}.{kind}"
            text = page.split(title)[1].split("\n## ")[0]
            for name, key in entry.keys.items():
                row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
                cells = re.split(r"(?<!\\)\|", row)[1:-1]
                assert len(cells) == 4 and all(cell.strip() for cell in cells), row
                assert ("required" in cells[2]) == key.required
                rows += 1
    assert rows > 600
    simclr = docs_reference.pages()["reference/recipes/method.md"].split("## `simclr`")[1]
    assert "| `temperature` | a number, positive | `0.2` | Temperature of the softmax. |" in simclr
    # Quantizers are made in Python, and random policies are among the transforms.
    listed = yaml.safe_load((ROOT / "tests/recipe/kinds.yaml").read_text(encoding="utf-8"))
    assert listed.keys() - docs_reference.families().keys() <= {"Quantizer", "RandomPolicy"}


def family_anchor(family: str, kind: str) -> str:
    return f"{kind_of(family)}-{kind}".replace("_", "-")


@pytest.mark.parametrize("verb", docs_reference.verbs())
def test_every_verb_has_an_example_that_its_parser_takes(verb: str) -> None:
    command = docs_reference.verbs()[verb]
    shown = re.fullmatch(r"Example: `mezzotint (.+)`", command.epilog or "")
    assert shown is not None, f"{verb} needs an example in its help"
    first, *arguments = shlex.split(shown[1])
    assert first == verb
    assert command.make_context(verb, arguments).params
    page = docs_reference.pages()["reference/cli.md"]
    assert f"## `{verb}`\n" in page and f"```bash\nmezzotint {shown[1]}\n```" in page
    for parameter in command.params:
        label = parameter.opts[0] if parameter.param_type_name == "option" else parameter.metavar
        assert label.replace("|", "\\|") in page


def test_links_between_files_become_links_between_pages() -> None:
    text = "[a](../docs/ssql.md#use) [b](../CHANGELOG.md) [c](results/views.md) [d](views.py)"
    found = docs_site.relinked(text, "benchmarks/README.md", "benchmarks/readme.md")
    source = "https://github.com/mezzotint/mezzotint/blob/main/benchmarks/views.py"
    assert found == (
        f"[a](../ssql.md#use) [b](../changelog.md) [c](../results/views.md) [d]({source})"
    )
    assert docs_site.relinked("[x](own.md)", "docs/a/b.md", "a/b.md") == "[x](own.md)"


def test_links_of_the_documents_point_somewhere() -> None:
    """To a file of the repository, or to a page that the site generates."""
    generated = {ROOT / "docs" / page for page in docs_site.generated()}
    files = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"))
    for path in files:
        for target in re.findall(r"\]\(([^)#:\s]+)[)#]", path.read_text(encoding="utf-8")):
            found = Path(os.path.normpath(path.parent / target))
            assert found.exists() or found in generated, f"{path.name}: {target}"


@pytest.mark.parametrize(
    ("question", "page"),
    [
        ("my images", "start/own-images.md"),
        ("a loss alone", "losses.md"),
        ("a new method", "../CONTRIBUTING.md"),
        ("int8 on a device", "start/int8.md"),
        ("what a metric means", "evaluation.md"),
        ("the papers", "reproduce/ssql.md"),
    ],
)
def test_the_start_page_leads_there_by_one_link(question: str, page: str) -> None:
    cards = (ROOT / "docs" / "index.md").read_text(encoding="utf-8").split("</div>\n\n!")[0]
    assert re.search(rf"\]\({re.escape(page)}[)#]", cards), question


def test_every_page_is_one_link_from_the_start_page() -> None:
    start = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(([^)#]+\.md)[)#]", start))
    pages = {str(p.relative_to(ROOT / "docs")) for p in (ROOT / "docs").rglob("*.md")}
    assert pages - {"index.md"} == {page for page in linked if not page.startswith("..")}


def test_results_say_what_their_tables_say() -> None:
    page = docs_site.generated()["results.md"]
    for result in docs_results.RESULTS:
        assert f"## {result.title}\n" in page and f"](results/{result.file})" in page
        plot = docs_site.generated()[f"results/plots/{result.plot}"]
        assert plot.startswith("<svg") and plot.count("<text") > 3
    (row,) = (r for r in docs_results.tables("startup.md")[0] if "--help" in r["command"])
    assert docs_results.number(row["median s"]).mean == float(row["median s"])
    assert "0.598 of them" in page and "hand-made features reach 0.458" in page


def test_plots_of_pages_are_those_of_the_tables() -> None:
    used = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "docs").glob("*.md"))
    for name, draw in docs_results.OF_PAGES.items():
        path = docs_results.PLOTS / f"{name}.svg"
        assert path.read_text(encoding="utf-8") == draw(), "run scripts/docs_results.py"
        assert f"](images/results/{name}.svg)" in used


# Numbers of pages that are no results: sizes, and settings of other projects.
NO_RESULTS = {"export.md": {"1.24"}}


def test_numbers_next_to_a_link_to_results_stand_in_the_results() -> None:
    files = (ROOT / "benchmarks" / "results").glob("*.md")
    known = " ".join(path.read_text(encoding="utf-8") for path in files).replace("−", "-")
    checked, wrong = 0, []
    for path in (ROOT / "docs").rglob("*.md"):
        for section in re.split(r"^##+ ", path.read_text(encoding="utf-8"), flags=re.M):
            if path.name == "log.md" or "benchmarks/results/" not in section:
                continue
            text = re.sub(r"```.*?```|\(https?:[^)]*\)|arXiv \S+|`[^`]*`", "", section, flags=re.S)
            numbers = set(re.findall(r"(?<![\w.])\d[\d,]*\.\d{2,}", text))
            checked += len(numbers)
            missing = {n for n in numbers if n not in known} - NO_RESULTS.get(path.name, set())
            wrong += [f"{path.name}, {section.splitlines()[0]}: {n}" for n in sorted(missing)]
    assert checked > 150 and not wrong, wrong


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("**0.607**", (0.607, 0.607, 0.607)),
        ("+0.5 ± 0.25", (0.5, 0.25, 0.75)),
        ("1,219 (900 to 1,400)", (1219, 900, 1400)),
        ("−0.060 (−0.099 – −0.020)", (-0.06, -0.099, -0.02)),
        ("2.9×", (2.9, 2.9, 2.9)),
    ],
)
def test_cells_are_read_with_their_intervals(cell: str, value: tuple[float, ...]) -> None:
    found = docs_results.number(cell)
    assert (found.mean, found.low, found.high) == pytest.approx(value)


def test_formulas_become_mathml() -> None:
    html = r'<p><span class="arithmatex">\(a &lt; \frac{1}{2}\)</span></p>'
    found = docs_site.on_page_content(html)
    assert "<math" in found and "<mfrac>" in found and "\\frac" not in found


def test_a_page_that_loads_from_the_web_is_refused() -> None:
    docs_site.on_post_page('<a href="https://arxiv.org/abs/2002.05709">', page=None)
    with pytest.raises(docs_site.PluginError, match="https://cdn.example/x.js"):
        docs_site.on_post_page('<script src="https://cdn.example/x.js">', page=None)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    html = (tmp_path / "reference" / "api" / "mezzotint.methods.html").read_text(encoding="utf-8")
    assert re.search(r'id="mezzotint.methods.SimCLR"', html)
