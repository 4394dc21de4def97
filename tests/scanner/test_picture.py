"""The picture of a map: what its pixels and its words say."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixture_files import FIXTURES, fixture_file
from PIL import Image, ImageDraw

from onnxfc import ScanOptions, scan
from onnxfc.scanner.picture import COLOURS, _classes, overlay
from onnxfc.scanner.score_map import ArrayCells, ScoreMap
from onnxfc.scanner.source import ArraySource, OpenImage, Resampled

DIGITS = fixture_file("digits.onnx")
CANVAS = FIXTURES / "trained" / "canvas.png"
SOFT = ScanOptions(scale=1 / 255, prove=False, activation="softmax")
TOP, GAP = 64, 16  # of the first panel; between panels
ZOOM = 4  # the picture's pixels of one of the canvas

MACHADO = {  # how colours look to people without one kind of cones (Machado, Oliveira, Fernandes 2009), in linear RGB
    "all cones": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(linear: np.ndarray) -> np.ndarray:
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


@pytest.mark.parametrize("cones", MACHADO)
def test_colours_differ_for_everybody(cones: str) -> None:
    """By 17 steps of CIELAB at least, where 2 can just be seen."""
    given = np.array(COLOURS) / 255
    linear = np.where(given <= 0.04045, given / 12.92, ((given + 0.055) / 1.055) ** 2.4)
    seen = lab(np.clip(linear @ np.array(MACHADO[cones]).T, 0, 1))
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=2)
    assert apart[np.triu_indices(len(COLOURS), 1)].min() > 17


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What is written into pictures, with the colour of the swatch before it."""
    found: list[tuple[str, Any]] = []
    swatches: list[Any] = [None]
    write, box = ImageDraw.ImageDraw.text, ImageDraw.ImageDraw.rectangle

    def text(self: Any, at: Any, told: str, *args: Any, **more: Any) -> None:
        found.append((told, swatches.pop() if swatches else None))
        write(self, at, told, *args, **more)

    def rectangle(self: Any, at: Any, fill: Any = None, **more: Any) -> None:
        swatches.append(fill)
        box(self, at, fill=fill, **more)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    monkeypatch.setattr(ImageDraw.ImageDraw, "rectangle", rectangle)
    return found


def test_cells_have_the_colours_of_the_legend(tmp_path: Path, words: list[tuple[str, Any]]) -> None:
    made = scan(DIGITS, CANVAS, tmp_path / "map.png", options=SOFT)
    picture = Image.open(tmp_path / "map.png")
    assert json.loads(picture.text["onnxfc"])["activation"] == "softmax"
    scores = np.asarray(made)
    kinds, best = scores.argmax(axis=0), scores.max(axis=0)
    share = (best - best.min()) / (best.max() - best.min())
    paper = np.asarray(Image.open(CANVAS))
    pixels = np.asarray(picture).astype(float)
    image = pixels[TOP : TOP + 160 * ZOOM : ZOOM, 16 : 16 + 240 * ZOOM : ZOOM]
    assert (image == paper[:, :, None]).all()  # the first panel is the image
    colours = {text: colour for text, colour in words if colour is not None and len(text) == 1 and colour in COLOURS}
    below = TOP + 160 * ZOOM + GAP
    for row, column in np.ndindex(*kinds.shape):
        y, x = 4 * row + 6, 4 * column + 6  # where the cell's square begins: its middle is 8 px into its crop
        light = 0.75 + 0.25 * paper[y, x] / 255
        told = (255 + (np.array(colours[str(kinds[row, column])]) - 255) * share[row, column]) * light
        assert np.abs(pixels[below + y * ZOOM + 1, 16 + x * ZOOM + 1] - told).max() < 1.5, (row, column)
    sure = [str(kinds[row, column]) for row, column in np.ndindex(*kinds.shape) if share[row, column] >= 0.75]
    assert [text for text, _ in words[: len(sure)]] == sure  # their names stand in them
    rest = [text for text, _ in words[len(sure) :]]
    assert rest[:3] == ["digits.onnx over canvas.png", rest[1], "class"]
    assert rest[1] == "the best class of each cell, softmax: 37x57 cells, each of the 16x16 px around it, 4x4 px apart"
    assert rest[-4:] == ["score", *(f"{best.min() + part * (best.max() - best.min()):.3g}" for part in (1, 0.5, 0))]


def test_one_class_is_a_heat_map(tmp_path: Path, words: list[tuple[str, Any]]) -> None:
    options = ScanOptions(scale=1 / 255, prove=False, activation="softmax", classes=("4",))
    made = scan(DIGITS, CANVAS, tmp_path / "map.png", options=options)
    pixels = np.asarray(Image.open(tmp_path / "map.png"))[TOP + 160 * ZOOM + GAP :, 16:]
    _, row, column = np.unravel_index(np.asarray(made).argmax(), made.shape)
    y, x = 4 * row + 6, 4 * column + 6
    light = 0.75 + 0.25 * float(np.asarray(Image.open(CANVAS))[y, x]) / 255
    assert np.abs(pixels[y * ZOOM + 1, x * ZOOM + 1] - light * np.array([253, 231, 37])).max() < 3  # yellow
    assert [text for text, _ in words] == [
        "digits.onnx over canvas.png",
        "class 4, softmax: 37x57 cells, each of the 16x16 px around it, 4x4 px apart",
        *("class 4", "1", "0.75", "0.5", "0.25", "0"),
    ]


def test_more_classes_than_colours(words: list[tuple[str, Any]]) -> None:
    """Those of most cells have colours; the others are told together. A cell without data shows the image."""
    plain = scan(DIGITS, CANVAS, options=SOFT)
    _, rows, columns = plain.shape
    kinds = np.minimum(np.arange(rows * columns) // 150, 12).reshape(rows, columns)
    scores = np.eye(15, dtype=np.float32)[kinds].transpose(2, 0, 1) * 0.5
    scores[:, 36, 56] = np.nan
    scores[:, 0, 0] = np.eye(15)[14]
    names = tuple(f"kind {k}" for k in range(15))
    made = ScoreMap(ArrayCells(scores), names, plain.placing, None, plain.notes, plain.image)
    pixels = np.asarray(overlay(made, None)).astype(int)
    legend = [(text, colour) for text, colour in words if colour is not None]
    # Of kinds 0 to 12, kind 12 has most cells, then 1 to 11 with 150 each; kind 0 has 149, kind 14 one.
    assert [text for text, _ in legend[:11]] == ["kind 12", *(f"kind {k}" for k in range(1, 10)), "4 others"]
    assert [colour for _, colour in legend[:10]] == list(COLOURS)
    below = TOP + 160 * ZOOM + GAP
    dark = 0.75 * np.array([40, 40, 40])
    assert np.abs(pixels[below + 6 * ZOOM + 2, 16 + 6 * ZOOM + 2] - dark).max() <= 1  # kind 14, black image
    y, x = 4 * 36 + 8, 4 * 56 + 8
    assert (pixels[below + y * ZOOM, 16 + x * ZOOM] == pixels[TOP + y * ZOOM, 16 + x * ZOOM]).all()


@pytest.mark.parametrize("shape", [(16, 16), (16, 4000), (4000, 16), (17, 17), (700, 600)], ids=str)
def test_any_shape(shape: tuple[int, int], tmp_path: Path) -> None:
    image = np.resize(np.asarray(Image.open(CANVAS)), shape)
    made = scan(DIGITS, image, tmp_path / "map.png", options=SOFT)
    assert made.shape[1:] == tuple((length - 16) // 4 + 1 for length in shape)
    width, height = Image.open(tmp_path / "map.png").size
    assert 250 <= width <= 2 * 1200 + 300
    assert 250 <= height <= 2 * 1200 + 300


def test_title_of_a_model_and_an_image_in_memory(tmp_path: Path, words: list[tuple[str, Any]]) -> None:
    scan(DIGITS.read_bytes(), np.asarray(Image.open(CANVAS)), tmp_path / "map.png", options=SOFT)
    assert "model over image" in [text for text, _ in words]


def test_a_larger_map_takes_no_more_memory() -> None:
    """Of 4 and 16 million cells, a picture shows the same number, and is painted in strips."""
    plain = scan(DIGITS, np.zeros((64, 64), np.uint8), options=SOFT)

    class Slope:
        def __init__(self, side: int) -> None:
            self.shape, self.tall = (10, side, side), side

        def read(self, classes: slice, rows: slice, columns: slice) -> np.ndarray:
            kinds, down, across = (np.arange(n)[s] for n, s in zip(self.shape, (classes, rows, columns), strict=True))
            return (kinds[:, None, None] + (down[:, None] + across) / self.shape[1]).astype(np.float32)

    peaks = []
    for side in (2000, 4000):
        axes = tuple(replace(axis, length=4 * side + 12, cells=side) for axis in plain.placing.axes)
        image = OpenImage(Resampled(ArraySource(np.zeros((480, 480), np.uint8)), Fraction(4 * side + 12, 480)))
        placing = replace(plain.placing, axes=(axes[0], axes[1]))
        made = ScoreMap(Slope(side), plain.classes, placing, None, plain.notes, image)
        tracemalloc.start()
        try:
            overlay(made, 3)
            heat = tracemalloc.get_traced_memory()[1] / 1e6
            tracemalloc.reset_peak()
            _classes(made, [np.arange(0, side, side // 500)] * 2)
            peaks.append((heat, tracemalloc.get_traced_memory()[1] / 1e6))
        finally:
            tracemalloc.stop()
    assert max(after - before for before, after in zip(*peaks, strict=True)) < 25, peaks
    assert max(heat for heat, _ in peaks) < 50, peaks


def test_what_is_no_data_does_not_hide_the_image() -> None:
    image = np.random.default_rng(0).random((60, 80), np.float32)
    image[:20] = -9999
    seen = np.asarray(scan(DIGITS, image, options=ScanOptions(prove=False, no_data=-9999)).overlay())
    assert len(np.unique(seen[TOP + 300 : TOP + 500, GAP : GAP + 700])) > 150
