"""A report as one HTML page that stands by itself: no script, nothing is fetched. Made of the JSON report."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from onnxfc.reports.rewrite import LITTLE, RELATIONS
from onnxfc.reports.rows import size

Document = Mapping[str, Any]
MARK = "<!doctype html><!-- onnxfc report -->"
"""How a page begins, so that it is known for a report."""

_RESULTS = {
    "native": ("native parity", "both models agree at the native size"),
    "window": ("window parity", "each cell is the original's head on that window of the same features"),
    "trunk": ("trunk parity", "the original's trunk, freed of its size, makes the same features"),
    "shift": ("shift", "what lies well inside two overlapping images is the same in both"),
    "form": ("form parity", "the model for one size computes what the one for any size computes there"),
    "crops": ("crop agreement", "each cell is the original run on that crop"),
}
_GOOD = {"passed", "holds", "rewritten", "rewritable", "exact"}
_BAD = {"failed", "proof failed", "error", "refused"}

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881 }
:root { --good: #2a8a4a; --bad: #c33; --mid: #b7791f; --blue: #3b7dd8 }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere }
h1 { font-size: 1.5rem; margin: 3rem 0 .5rem } h1:first-child { margin-top: .5rem }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem } p { margin: .3rem 0 }
.wide { overflow-x: auto } table { border-collapse: collapse; min-width: 100%; font-size: .9rem }
th, td { text-align: left; vertical-align: top; padding: .35rem .7rem .35rem 0; border-bottom: 1px solid var(--line) }
td { min-width: 6rem }
td.num { font-variant-numeric: tabular-nums; white-space: nowrap; min-width: 0 }
th { white-space: nowrap; overflow-wrap: normal } td:first-child { min-width: 7rem }
svg { margin-top: .8rem }
.badge { padding: .1rem .5rem; border-radius: .3rem; color: #fff; background: var(--mid); white-space: nowrap }
.good { background: var(--good) } .bad { background: var(--bad) } small { opacity: .75 }
svg { max-width: 100%; height: auto; display: block; font: 12px system-ui, sans-serif }
@media (max-width: 40rem) {
  .many, .many tbody, .many tr, .many td { display: block; white-space: normal }
  .many tr:first-child { display: none }
  .many td { border: 0; padding: .1rem 0 } .many tr { border-bottom: 1px solid var(--line); padding: .4rem 0 }
  .many td + td:not(:empty)::before { content: attr(data-k) " "; opacity: .6 }
}
svg text { fill: currentColor } code { font-size: .9em }
"""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(document: Document) -> str:
    """The page of a rewrite's, a check's or an inspection's report, also of a refusal."""
    several = document.get("reports")
    title = _title(document) if several is None else f"{len(several)} models"
    body = "\n".join(_sections(document, title or "onnxfc") if several is None else _several(document, title))
    return (
        f'{MARK}\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{escape(title or 'onnxfc')}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _title(document: Document) -> str:
    names = [str(document[key]) for key in ("input", "path", "output", "original", "other") if document.get(key)]
    return (" against " if "other" in document else " → ").join(names)


def _several(document: Document, title: str) -> Iterator[str]:
    """A table of all models, then the page of each."""
    yield f"<h1>{escape(title)}</h1>"
    head = ("model", "", "verdict", "")
    rows = []
    for number, item in enumerate(document["reports"], 1):
        verdict = item["claim"]["verdict"] if item.get("claim") else ""
        told = item.get("message") or (item.get("parity") or {}).get("summary") or ""
        badge, second = _badge(item["status"]), _badge(verdict) if verdict else ""
        names = f'<td><a href="#model-{number}">{escape(str(item["input"]))}</a></td>'
        rows.append([names, f"<td>{badge}</td>", f"<td>{second}</td>", f"<td>{escape(told)}</td>"])
    yield _rows(head, rows)
    for number, item in enumerate(document["reports"], 1):
        yield from _sections(item, _title(item), f"model-{number}")


def _sections(document: Document, title: str, anchor: str = "") -> Iterator[str]:
    """The page of one model. ``anchor``: what it is called in a page of several."""
    claim = document.get("claim")
    yield f'<h1 id="{anchor}">{escape(title)}</h1>' if anchor else f"<h1>{escape(title)}</h1>"
    badges = [document["status"], *([claim["verdict"]] if claim and document["status"] != "failed" else [])]
    yield f"<p>{' '.join(map(_badge, badges))}</p>"
    parity = document.get("parity")
    told = document.get("message") or (parity or {}).get("summary")
    if told:
        yield f"<p>{escape(told)}</p>"
    yield from _refused(document.get("refusals") or ())
    if document.get("replacements"):
        yield f"<h2>The head, before and after</h2>\n{_replaced(document['replacements'])}"
    if claim:
        yield f"<h2>A cell and its pixels</h2>\n{_figures(claim, document)}"
        yield _field(claim)
    if document.get("stages"):
        yield f"<h2>The trunk</h2>\n{_stages(document['stages'])}"
    if parity:
        yield f"<h2>Results</h2>\n{_results(parity)}"
        yield f"<h2>Certificate</h2>\n{_certificate(parity['certificate'])}"
        yield from _cells(parity["crops"])
    if claim and claim["blame"]:
        rows = [item.split(": ", 1) for item in claim["blame"]]
        yield f"<h2>Why cells differ from crops</h2>\n{_table(('cause', 'node'), rows)}"
    if parity:
        yield f"<h2>Conditions</h2>\n{_conditions(parity['conditions'])}"
    yield f"<p><small>onnxfc {escape(document['version'])}, {escape(document['schema'])}</small></p>"


def _badge(word: str) -> str:
    kind = "good" if word in _GOOD else "bad" if word in _BAD else ""
    return f'<span class="badge {kind}">{escape(word)}</span>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells of plain text."""
    return _rows(head, [[f"<td>{escape(cell)}</td>" for cell in row] for row in rows])


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """On a narrow screen a table of more than two columns has its cells below each other, each with its title."""
    top = "".join(f"<th>{escape(word)}</th>" for word in head)
    lines = "\n".join(f"<tr>{_titled(head, ''.join(row))}</tr>" for row in rows)
    kind = ' class="many"' if len(head) > 2 else ""
    return f'<div class="wide"><table{kind}>\n<tr>{top}</tr>\n{lines}\n</table></div>'


def _titled(head: Sequence[str], row: str) -> str:
    """Each cell with the title of its column."""
    titles = iter(head)
    return re.sub("<td", lambda _: f'<td data-k="{escape(next(titles))}"', row)


def _refused(refusals: Sequence[Document]) -> Iterator[str]:
    if refusals:
        rows = [(item["code"], item["node"], item["reason"], item["advice"]) for item in refusals]
        yield f"<h2>Left alone</h2>\n{_table(('code', 'node', 'reason', 'what to do'), rows)}"
        yield "<p><small>docs/refusals.md explains each code, with an example and what else helps.</small></p>"


def _figures(claim: Document, document: Document) -> str:
    rows = [("native size", f"{size(claim['native_size'])} px"), ("stride", f"{size(claim['stride'])} px")]
    if claim.get("fixed_size"):
        rows.append(("image size", f"{size(claim['fixed_size'])} px alone"))
    elif claim.get("smallest_size"):
        step = "" if set(claim["size_step"]) == {1} else f", in steps of {size(claim['size_step'])} px"
        rows.append(("image sizes", f"from {size(claim['smallest_size'])} px on{step}"))
    halo = claim.get("halo")
    whole = "the whole image: an operator looks at all of it"
    told = ", ".join(f"{a} px before and {b} px behind" for a, b in dict.fromkeys(map(tuple, halo or ())))
    rows.append(("halo", told if halo else whole))
    if document.get("map_at_twice_native"):
        twice = size([2 * length for length in claim["native_size"]])
        rows.append(("map", f"{size(document['map_at_twice_native'])} cells at {twice} px"))
    return _table(("", ""), rows)


def _results(parity: Document) -> str:
    rows = []
    for name, (title, meaning) in _RESULTS.items():
        found = parity[name]
        if name == "form" and found["status"] == "not applicable":
            continue
        where = ", ".join(size(item) for item in found.get("sizes") or ())
        told = found["reason"] or (f"at {where} px" if where else "") or found.get("worst", "")
        told += f"; {found['frozen']}" if found.get("frozen") else ""
        compared = bool(found["compared"])
        required = found["status"] == "measured" and found["tolerance"] is not None
        badge = _badge("passed" if required else found["status"])
        rows.append(
            [
                f"<td>{title}<br><small>{meaning}</small></td><td>{badge}</td>",
                f'<td class="num">{_deviation(name, found["deviation"]) if compared else ""}</td>',
                f'<td class="num">{_number(found["tolerance"]) if compared else ""}</td>',
                f'<td class="num">{found["compared"] or ""}</td><td>{escape(told)}</td>',
            ]
        )
    return _rows(("result", "", "deviation", "allowed", "values", "where"), rows)


def _certificate(found: Document) -> str:
    """Which Conv weight is which FC layer's, as the two files show."""
    reason = f" {escape(found['reason'])}" if found["reason"] else ""
    note = "<small>what the two files show of their weights; nothing is run</small>"
    if not found["weights"]:
        return f"<p>{_badge(found['status'])}{reason}<br>{note}</p>"
    rows = []
    for item in found["weights"]:
        order = f", {item['order']}" if item["order"] else ""
        error = _number(item["error"]) if item["error"] else "0"
        rows.append((item["weight"], ", ".join(item["found"]), RELATIONS[item["relation"]] + order, error))
    table = _table(("FC weight", "Conv weight", "which it is", "largest error"), rows)
    return f"<p>{_badge(found['status'])}{reason} {note}</p>\n{table}"


def _deviation(result: str, value: float | str) -> str:
    """Of crops as a share of the score range, as the text has it; rounding as what is allowed is written."""
    return f"{value:.1%}" if result == "crops" and isinstance(value, float) and value >= LITTLE else _number(value)


def _number(value: float | str | None) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:.1e}"


def _conditions(how: Document) -> str:
    rows = [
        ("inputs", ", ".join(how["inputs"])),
        ("seed, samples", f"{how['seed']}, {how['samples']}"),
        ("onnxruntime", str(how["onnxruntime"])),
        ("time", f"{how['seconds']:.1f} s"),
    ]
    return _table(("", ""), rows)


def _stages(stages: Sequence[Document]) -> str:
    head = ("stride", "reads", "from", "native map", "last tensor")
    keys = ("stride", "field", "start", "extent")
    rows = [
        (*(size(item[key]) if key != "start" else ", ".join(map(str, item[key])) for key in keys), item["tensor"])
        for item in stages
    ]
    return _table(head, rows)


def _svg(width: float, height: float, shapes: Sequence[str], label: str) -> str:
    return (
        f'<svg role="img" aria-label="{escape(label)}" width="{width:.0f}" viewBox="0 0 {width:.0f} {height:.0f}">\n'
        + "\n".join(shapes)
        + "\n</svg>"
    )


def _rect(x: float, y: float, width: float, height: float, style: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" {style}/>'


def _replaced(items: Sequence[Document]) -> str:
    """Each piece of the head: what it was, an arrow, what it is."""
    shapes, high = [], 52
    box = 'rx="4" fill="var(--soft)" stroke="var(--line)"'
    for k, item in enumerate(items):
        y = k * high
        shapes += [
            f'<text x="0" y="{y + 12}">{escape(item["node"][:80])}</text>',
            _rect(0, y + 18, 230, 26, box),
            f'<text x="8" y="{y + 35}">{escape(item["before"])}</text>',
            f'<path d="M236 {y + 31} h24 m-6 -4 l6 4 l-6 4" fill="none" stroke="currentColor"/>',
            _rect(266, y + 18, 250, 26, box),
            f'<text x="274" y="{y + 35}">{escape(item["after"])}</text>',
        ]
    return _svg(520, high * len(items), shapes, "the head before and after")


def _field(claim: Document) -> str:
    """The first cell's crop, the next cell's, and all pixels that the first depends on, to scale."""
    flat = len(claim["stride"]) == 1  # a signal lies along the width
    lengths = zip(("native_size", "stride", "start", "size"), (0.2 * claim["native_size"][0], 0, 0, 0), strict=True)
    two = [[high, *claim[name]] if flat else claim[name][-2:] for name, high in lengths]
    (height, width), (down, right), (top, left), (deep, wide) = two
    deep = height if flat else deep
    if not claim.get("halo"):
        top, left, deep, wide = 0, 0, height, width
    across, along = max(width + right, left + wide) - min(0, left), max(height + down, top + deep) - min(0, top)
    scale = 360 / max(across, along, 1)
    x0, y0 = -min(0, left) * scale + 1, -min(0, top) * scale + 1

    def frame(x: float, y: float, w: float, h: float, style: str) -> str:
        return _rect(x0 + x * scale, y0 + y * scale, w * scale, h * scale, style)

    shapes = [
        frame(left, top, wide, deep, 'fill="var(--soft)" stroke="currentColor" stroke-dasharray="4 3"'),
        frame(0, 0, width, height, 'fill="var(--blue)" fill-opacity=".2" stroke="var(--blue)" stroke-width="2"'),
        frame(right, down, width, height, 'fill="none" stroke="var(--mid)" stroke-width="2"'),
    ]
    picture = _svg(across * scale + 2, along * scale + 2, shapes, "crop and receptive field to scale")
    alone = (top, left, deep, wide) == (0, 0, height, width)
    reads = "it reads nothing else" if alone else "the dashed frame is all that it reads"
    told = reads if claim.get("halo") else "it depends on the whole image"
    return f"{picture}\n<p><small>Blue: the crop of the first cell; {told}. Brown: the next cell's crop.</small></p>"


def _cells(crops: Document) -> Iterator[str]:
    """How far the tried cells are from their crops: one square each, at its place."""
    finite = [item for item in crops.get("tried") or () if not isinstance(item["deviation"], str)]
    tried = [item for item in finite if len(item["cell"]) == 2]
    if not tried:
        return
    most = max(max(item["deviation"] for item in tried), 1e-12)
    if most < LITTLE:
        yield "<h2>Cells and their crops</h2>"
        yield f"<p>All {len(tried)} cells that were compared are what the original says of their crops.</p>"
        return
    rows, columns = (max(item["cell"][k] for item in tried) + 1 for k in (0, 1))
    side = max(6.0, min(36.0, 480 / max(rows, columns)))
    shapes = [_rect(0, 0, columns * side, rows * side, 'fill="var(--soft)" stroke="var(--line)"')]
    for item in tried:
        y, x = (index * side for index in item["cell"])
        share = item["deviation"] / most
        told = f"<title>cell {size(item['cell'])}: {item['deviation']:.1%}</title>"
        rect = _rect(x, y, side, side, f'fill="var(--bad)" fill-opacity="{0.1 + 0.9 * share:.2f}"')
        shapes.append(f"<g>{told}{rect}</g>")
    yield "<h2>Cells and their crops</h2>"
    yield _svg(columns * side + 1, rows * side + 1, shapes, "deviation from crops over the tried cells")
    told = "other squares are cells that were not compared"
    yield f"<p><small>The reddest differs from its crop by {most:.1%} of the score range; {told}.</small></p>"
