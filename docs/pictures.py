"""Draw the pictures of these pages: ``python docs/pictures.py``; needs onnxfc alone.

``images/digits-map.svg``: the canvas of eight handwritten digits in ``fixtures/trained/digits.npz``, and below it the
map that the rewritten digits network gives of it, one cell for each 16x16 window, 4 pixels apart.
``images/cells.svg``: what two cells of that network stand for, and what the first of them reads.
"""

from __future__ import annotations

import base64
import struct
import zlib
from pathlib import Path

import numpy as np
import onnxruntime as ort

import onnxfc
from onnxfc.scanner import picture

ROOT = Path(__file__).parents[1]
SCALE, STRIDE, WINDOW = 6, 4, 16  # the figure's pixels of one pixel; pixels from cell to cell; pixels of a window
COLOURS = ["".join(f"{part:02x}" for part in colour) for colour in picture.COLOURS]


def png(grey: np.ndarray) -> str:
    """A grey image as a data URI."""
    height, width = grey.shape
    rows = b"".join(b"\0" + row.tobytes() for row in grey.astype(np.uint8))
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(rows, 9))]
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in [*parts, (b"IEND", b"")]
    ]
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)).decode()


def digits_map() -> str:
    """The canvas with its digits framed; below it the map, each cell in the colour of its class, paler where it is
    unsure, those of the framed windows with their class."""
    data = np.load(ROOT / "fixtures" / "trained" / "digits.npz")
    canvas = data["canvas"].reshape(64, 112)
    session = ort.InferenceSession(_bytes(onnxfc.rewrite(ROOT / "fixtures" / "trained" / "digits.onnx", prove=False)))
    [scores] = session.run(None, {"image": canvas[None, None].astype(np.float32) / 16})
    shares = np.exp(scores[0] - scores[0].max(0))
    shares /= shares.sum(0)
    height, width = (length * SCALE for length in canvas.shape)
    side, top = STRIDE * SCALE, height + 12
    left = (WINDOW - STRIDE) // 2 * SCALE  # a cell stands for the middle of its window
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top + shares.shape[1] * side + 34}" '
        'font-family="sans-serif" font-size="16" text-anchor="middle">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<image width="{width}" height="{height}" style="image-rendering:pixelated" '
        f'preserveAspectRatio="none" href="{png(255 - canvas * 15)}"/>',
    ]
    for y, x in np.ndindex(*shares.shape[1:]):
        label, share = int(shares[:, y, x].argmax()), float(shares[:, y, x].max())
        place = f'x="{left + x * side}" y="{top + y * side}" width="{side}" height="{side}"'
        lines.append(f'<rect {place} fill="#{COLOURS[label]}" fill-opacity="{share**2:.2f}"/>')
    for y, x in data["corners"]:
        box = f'x="{x * SCALE + 1}" y="{y * SCALE + 1}" width="{WINDOW * SCALE - 2}" height="{WINDOW * SCALE - 2}"'
        row, column = y // STRIDE, x // STRIDE
        cell = f'x="{left + column * side}" y="{top + row * side}" width="{side}" height="{side}"'
        label = int(shares[:, row, column].argmax())
        lines.append(f'<rect {box} fill="none" stroke="#{COLOURS[label]}" stroke-width="3"/>')
        lines.append(f'<rect {cell} fill="none" stroke="#000" stroke-width="2"/>')
        middle = f'x="{left + (column + 0.5) * side}" y="{top + (row + 0.5) * side + 6}"'
        ink = "#000" if sum(picture.COLOURS[label]) > 330 else "#fff"
        lines.append(f'<text {middle} fill="{ink}">{label}</text>')
    below = top + shares.shape[1] * side + 12
    for label, colour in enumerate(COLOURS):
        lines.append(f'<rect x="{left + label * 60}" y="{below}" width="16" height="16" fill="#{colour}"/>')
        lines.append(f'<text x="{left + label * 60 + 26}" y="{below + 14}" fill="#000">{label}</text>')
    return "\n".join([*lines, "</svg>\n"])


def cells() -> str:
    """An image of 32x48 pixels, the crops of two neighbouring cells and what the first reads; beside it the map."""
    geometry = onnxfc.rewrite(ROOT / "fixtures" / "trained" / "digits.onnx", prove=False).geometry
    size, first, second = (32, 48), (1, 3), (1, 4)
    height, width = (length * 8 for length in size)
    rows, columns = geometry.cells(size)
    left, top, side = width + 90, (height - rows * 28) // 2, 28

    def frame(box: onnxfc.Box, style: str) -> str:
        (y, x), (tall, wide) = box.start, box.size
        return f'<rect x="{x * 8}" y="{y * 8}" width="{wide * 8}" height="{tall * 8}" fill="none" {style}/>'

    blue, orange = (f'stroke="#{COLOURS[k]}" stroke-width="4"' for k in (0, 1))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-4 -4 {left + columns * side + 8} {height + 40}" '
        'font-family="sans-serif" font-size="16">',
        '<rect x="-4" y="-4" width="100%" height="100%" fill="#fff"/>',
        f'<rect width="{width}" height="{height}" fill="#eee"/>',
        frame(geometry.field(first), f'stroke="#{COLOURS[0]}" stroke-width="2" stroke-dasharray="6 4"'),
        frame(geometry.box(second), orange),
        frame(geometry.box(first), blue),
        f'<path d="M{width + 20} {height / 2} h50 m-10 -8 l10 8 l-10 8" fill="none" stroke="#000" stroke-width="2"/>',
    ]
    for y, x in np.ndindex(rows, columns):
        colour = {first: f"#{COLOURS[0]}", second: f"#{COLOURS[1]}"}.get((y, x), "#eee")
        place = f'x="{left + x * side}" y="{top + y * side}" width="{side - 2}" height="{side - 2}"'
        lines.append(f'<rect {place} fill="{colour}"/>')
    told = ((0, f"image, {size[0]}x{size[1]} px"), (left, f"map, {rows}x{columns} cells"))
    lines += [f'<text x="{x}" y="{height + 24}">{text}</text>' for x, text in told]
    return "\n".join([*lines, "</svg>\n"])


def _bytes(model: onnxfc.Rewrite) -> bytes:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        model.save(path)
        return path.read_bytes()


if __name__ == "__main__":
    for name, drawn in (("digits-map", digits_map()), ("cells", cells())):
        (ROOT / "docs" / "images" / f"{name}.svg").write_text(drawn, "utf-8")
