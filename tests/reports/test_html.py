"""The report as a page: it says what the JSON report says, stands by itself, and a real browser shows it."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from cli_runs import here
from fixture_files import fixture_file

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
VOID = {"meta", "rect", "path", "br", "!doctype"}


class Tags(HTMLParser):
    """Every tag is closed by its own; attributes are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(path: Path) -> tuple[str, Tags]:
    text = path.read_text("utf-8")
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    return html.unescape(text), tags


def pages(folder: Path) -> dict[str, Path]:
    """Reports of all commands: a rewrite, a refusal, a failed proof, a check, inspections, a signal, context."""
    digits, lenet = fixture_file("digits.onnx"), fixture_file("lenet.dynamo.onnx")
    runs = {
        "rewrite": (0, "rewrite", digits, folder / "digits-any.onnx"),
        "context": (0, "rewrite", fixture_file("se_net.dynamo.onnx"), folder / "se.onnx"),
        "signal": (0, "rewrite", fixture_file("conv1d.dynamo.onnx"), folder / "signal.onnx"),
        "refused": (3, "rewrite", fixture_file("table.dynamo.onnx"), folder / "table.onnx"),
        "check": (0, "check", digits, folder / "digits-any.onnx"),
        "differs": (4, "check", lenet, folder / "digits-any.onnx"),
        "inspect": (0, "inspect", digits),
        "rewritten": (0, "inspect", folder / "digits-any.onnx"),
        "several": (3, "rewrite", fixture_file("table.dynamo.onnx"), digits, "--out-dir", folder / "any"),
    }
    for name, (code, *words) in runs.items():
        for kind in ("html", "json"):
            done = here(*words, "--report", folder / f"{name}.{kind}")
            assert done.code == code, done.err
    return {name: folder / f"{name}.html" for name in runs}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return pages(tmp_path_factory.mktemp("reports"))


NAMES = ("rewrite", "context", "signal", "refused", "check", "differs", "inspect", "rewritten", "several")


@pytest.mark.parametrize("name", NAMES)
def test_a_page_stands_by_itself(made: dict[str, Path], name: str) -> None:
    """No script, and nothing that a browser would fetch."""
    _, tags = parsed(made[name])
    assert not {tag for tag, _ in tags.seen} & {"script", "link", "img", "iframe", "object", "image"}
    assert not [attrs for _, attrs in tags.seen if {"src", "xlink:href", "onload"} & attrs.keys()]
    anchors = {f"#{attrs['id']}" for _, attrs in tags.seen if "id" in attrs}
    assert {attrs["href"] for _, attrs in tags.seen if "href" in attrs} <= anchors
    assert "url(" not in made[name].read_text("utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_pictures_hold_what_they_show(made: dict[str, Path], name: str) -> None:
    _, tags = parsed(made[name])
    room = (0.0, 0.0)
    for tag, attrs in tags.seen:
        if tag == "svg":
            _, _, *room = map(float, str(attrs.get("viewbox") or attrs["viewBox"]).split())
        elif tag == "rect":
            x, y, width, height = (float(str(attrs[key])) for key in ("x", "y", "width", "height"))
            assert min(x, y) >= 0
            assert x + width <= room[0] + 0.5
            assert y + height <= room[1] + 0.5


def test_a_rewrite(made: dict[str, Path]) -> None:
    text, tags = parsed(made["rewrite"])
    told = json.loads(made["rewrite"].with_suffix(".json").read_text("utf-8"))
    for word in ("approximate", "16x16 px", "Gemm 256→32", "Conv 4x4 16→32", "5x5 cells at 32x32 px", "node_conv2d_1"):
        assert word in text
    for name in ("native", "window", "trunk", "shift"):
        assert f"{told['parity'][name]['tolerance']:.1e}" in text
        assert f'<td data-k="values" class="num">{told["parity"][name]["compared"]}</td>' in text
    [first, second] = told["parity"]["certificate"]["weights"]
    assert '<span class="badge good">holds</span>' in text
    for weight in (first, second):
        assert f'<td data-k="FC weight">{weight["weight"]}</td>' in text
        assert f'<td data-k="Conv weight">{weight["found"][0]}</td>' in text
    assert '<td data-k="which it is">byte for byte</td>' in text
    crops = told["parity"]["crops"]
    assert f"{crops['deviation']:.1%}" in text
    assert len(crops["tried"]) == crops["cells"] == 5
    assert max(item["deviation"] for item in crops["tried"]) == crops["deviation"]
    for item in crops["tried"]:
        assert f"<title>cell {item['cell'][0]}x{item['cell'][1]}: {item['deviation']:.1%}</title>" in text
    frames = [attrs for tag, attrs in tags.seen if tag == "rect" and "stroke-dasharray" in attrs]
    [field] = frames
    crop = next(attrs for tag, attrs in tags.seen if tag == "rect" and attrs.get("stroke") == "var(--blue)")
    assert float(str(field["width"])) / float(str(crop["width"])) == pytest.approx(22 / 16, abs=0.01)


def test_cells_that_are_their_crops(tmp_path: Path) -> None:
    """No picture of rounding, and no frame to explain where a cell reads its crop alone."""
    done = here("rewrite", fixture_file("lenet.dynamo.onnx"), "any.onnx", "--report", "any.html", cwd=tmp_path)
    assert done.code == 0
    text, _ = parsed(tmp_path / "any.html")
    assert "All 5 cells that were compared are what the original says of their crops." in text
    assert "Blue: the crop of the first cell; it reads nothing else." in text
    assert "reddest" not in text
    assert "measured" not in text  # it is required of an exact model, and holds


def test_a_refusal(made: dict[str, Path]) -> None:
    text, _ = parsed(made["refused"])
    told = json.loads(made["refused"].with_suffix(".json").read_text("utf-8"))
    assert "table.dynamo.onnx" in text
    assert told["input"].endswith("table.dynamo.onnx")
    for item in told["refusals"]:
        assert item["code"] in text
        assert item["reason"] in text


def test_a_failed_check(made: dict[str, Path]) -> None:
    text, _ = parsed(made["differs"])
    assert '<span class="badge bad">failed</span>' in text
    told = json.loads(made["differs"].with_suffix(".json").read_text("utf-8"))
    assert told["message"] in text
    assert f">{told['claim']['verdict']}</span>" not in text  # it is claimed, and does not hold


def test_several(made: dict[str, Path]) -> None:
    text, tags = parsed(made["several"])
    assert "<h1>2 models</h1>" in text
    assert [tag for tag, _ in tags.seen].count("h1") == 3
    refused, rewritten = json.loads(made["several"].with_suffix(".json").read_text("utf-8"))["reports"]
    for told in (refused["message"], rewritten["parity"]["summary"]):
        assert text.count(told) == 2


def test_an_inspection(made: dict[str, Path]) -> None:
    text, _ = parsed(made["inspect"])
    assert "max_pool2d_1" in text
    assert "rewritable" in text


def test_a_report_is_written_anew_and_nothing_else(made: dict[str, Path], tmp_path: Path) -> None:
    mine = tmp_path / "mine.html"
    mine.write_text("<!doctype html><p>mine</p>")
    done = here("inspect", fixture_file("digits.onnx"), "--report", mine)
    assert done.code == 2
    assert "exists and is not a report" in done.err
    assert "mine" in mine.read_text()
    assert here("inspect", fixture_file("digits.onnx"), "--report", made["inspect"]).code == 0


def test_names_are_escaped(tmp_path: Path) -> None:
    source = tmp_path / "<b>&.onnx"
    shutil.copy(fixture_file("table.dynamo.onnx"), source)
    assert here("rewrite", source, tmp_path / "out.onnx", "--report", tmp_path / "r.html").code == 3
    assert "<b>" not in (tmp_path / "r.html").read_text("utf-8")


FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--allow-file-access-from-files"),
)
WRAPPER = """<!doctype html><body><iframe src="{page}" width="{width}" height="900"></iframe><p id="said"></p><script>
onload = () => {{
  const root = document.querySelector("iframe").contentDocument.documentElement
  said.textContent = "scroll " + root.scrollWidth + " of " + root.clientWidth + " high " + root.scrollHeight
}}</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", NAMES)
def test_a_browser_shows_it(made: dict[str, Path], name: str, width: int, tmp_path: Path) -> None:
    """Nothing in the console, and the page is as wide as the window: only tables scroll."""
    wrapper = made[name].parent / f"{name}-{width}-wrapper.html"
    wrapper.write_text(WRAPPER.format(page=made[name].name, width=width), "utf-8")
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path}", "--enable-logging=stderr", "--dump-dom"]
    done = subprocess.run([*command, wrapper.as_uri()], capture_output=True, encoding="utf-8", timeout=120)
    assert "CONSOLE" not in done.stderr
    scroll, room, high = map(int, re.findall(r"scroll (\d+) of (\d+) high (\d+)", done.stdout)[0])
    assert scroll <= room <= width
    assert high > 200
