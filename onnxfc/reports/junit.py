"""A check as JUnit XML, which CI systems show: one test case for every output in every comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as etree

from onnxfc.reports.rewrite import certificate_text

if TYPE_CHECKING:
    from onnxfc.checker.api import Checked
    from onnxfc.proof.results import Parity, ParityResult


def as_xml(result: Checked, name: str) -> bytes:
    """The whole document, UTF-8; ``name`` is that of the models."""
    parity = result.parity
    cases = [
        *_compared("native parity", parity.native),
        *_compared("window parity", parity.window),
        *_compared("trunk parity", parity.trunk),
        *_compared("shift consistency", parity.shift),
        *_compared("CPU against provider", parity.provider),
        _crops(parity),
        _certificate(parity),
        _proof(parity),
    ]
    return _document(cases, name, parity.conditions.seconds)


def error_as_xml(message: str, name: str) -> bytes:
    """A check that could not be made."""
    case = _case("onnxfc", "check")
    etree.SubElement(case, "error", message=_clean(message))
    return _document([case], name, 0.0)


def _document(cases: list[etree.Element], name: str, seconds: float) -> bytes:
    counts = {
        "tests": len(cases),
        "failures": sum(case.find("failure") is not None for case in cases),
        "errors": sum(case.find("error") is not None for case in cases),
        "skipped": sum(case.find("skipped") is not None for case in cases),
    }
    told = {key: str(value) for key, value in counts.items()} | {"time": f"{seconds:.3f}"}
    root = etree.Element("testsuites", {"name": "onnxfc check", **told})
    suite = etree.SubElement(root, "testsuite", {"name": _clean(name), **told})
    suite.extend(cases)
    etree.indent(root)
    text: bytes = etree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _case(kind: str, name: str) -> etree.Element:
    return etree.Element("testcase", classname=f"onnxfc.{kind.replace(' ', '_')}", name=_clean(name))


def _compared(kind: str, result: ParityResult) -> list[etree.Element]:
    if result.status in ("not applicable", "not run"):
        case = _case(kind, kind)
        etree.SubElement(case, "skipped", message=_clean(result.reason))
        return [case]
    cases = []
    for output in result.outputs:
        case = _case(kind, output.name)
        if not output.passed:
            etree.SubElement(case, "failure", message=_clean(output.reason))
        text = f"deviation {output.deviation:.3e}, tolerance {output.tolerance:.3e} of the signal; {output.worst}"
        etree.SubElement(case, "system-out").text = _clean(text)
        cases.append(case)
    if result.status == "failed" and all(output.passed for output in result.outputs):
        case = _case(kind, kind)
        etree.SubElement(case, "failure", message=_clean(result.reason))
        cases.append(case)
    return cases


def _crops(parity: Parity) -> etree.Element:
    case, crops = _case("crop agreement", "crop agreement"), parity.crops
    if crops.status in ("not applicable", "not run"):
        etree.SubElement(case, "skipped", message=_clean(crops.reason))
        return case
    if crops.status == "failed":
        etree.SubElement(case, "failure", message=_clean(crops.reason))
    text = f"deviation {crops.deviation:.3e}, median {crops.median:.3e} of the score range, {crops.cells} cells"
    etree.SubElement(case, "system-out").text = text
    return case


def _certificate(parity: Parity) -> etree.Element:
    case, found = _case("certificate", "certificate"), parity.certificate
    if found.status == "holds":
        etree.SubElement(case, "system-out").text = _clean(certificate_text(found))
    else:
        etree.SubElement(case, "failure" if found.status == "failed" else "skipped", message=_clean(found.reason))
    return case


def _proof(parity: Parity) -> etree.Element:
    """The whole: it also fails where nothing could be compared."""
    case = _case("proof", "proof")
    if not parity.passed:
        etree.SubElement(case, "failure", message=_clean(parity.summary()))
    return case


def _clean(text: str) -> str:
    """XML has no control characters and no halves of a pair, whatever stands in a tensor's or a file's name."""
    plain = "".join(char if char in "\t\n" or ord(char) >= 32 else "?" for char in text)
    return plain.encode("utf-8", "replace").decode()
