"""Values of options that are not of their form, and what is said of the system's errors."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from cli_runs import LENET, runner

from onnxfc.cli.common import printable
from onnxfc.cli.main import main
from onnxfc.cli.main_group import _told


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--memory", "much"), "'much' is not an amount of memory such as 800M or 2G"),
        (("--memory", "0G"), "'0G' is not an amount of memory such as 800M or 2G"),
        (("--mean", "1/0"), "--mean: '1/0' is not X,X,.., such as 0.5,0.5,0.5"),
        (("--mean", "a"), "'a' is not X,X,.., such as"),
        (("--mean", ","), "',' is not X,X,.., such as"),
        (("--scale", "1/0"), "--scale: '1/0' is not X, such as 1/255"),
        (("--scale", "nan"), "'nan' is not X, such as 1/255"),
        (("--scale", "1e400"), "'1e400' is not X, such as 1/255"),
        (("--resample", "1e999999999"), "'1e999999999' is not FACTOR, such as 0.5"),
        (("--region", "1,2,3"), "'1,2,3' is not X,Y,W,H, such as 0,0,512,512"),
        (("--no-data", "x"), "--no-data: 'x' is not a number; see main scan --help"),
    ],
    ids=" ".join,
)
def test_values_of_another_form(words: tuple[str, ...], says: str) -> None:
    done = runner().invoke(main, ["scan", "in.onnx", "image.tif", "map.npy", *words])
    assert done.exit_code == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_folder_for_many_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "made").write_text("mine")
    done = runner().invoke(main, ["rewrite", str(LENET), "--out-dir", str(tmp_path / "made" / "deep")])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == f"onnxfc: {tmp_path / 'made' / 'deep'}: cannot be made: Not a directory\n"
    assert (tmp_path / "made").read_text() == "mine"


def test_a_file_is_no_folder_for_many(tmp_path: Path) -> None:
    (tmp_path / "made").write_text("mine")
    done = runner().invoke(main, ["rewrite", str(LENET), "--out-dir", str(tmp_path / "made")])
    assert done.exit_code == 2
    assert "is a file" in done.stderr


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "there is not enough memory"),
        (FileNotFoundError(errno.ENOENT, "x"), "the working directory does not exist any more; change to another one"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.onnx"), "a.onnx: No such file"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (OSError("without a number"), "without a number"),
        (ImportError("libx.so: Too many open files"), "too many files are open"),
        (ImportError("no module"), None),
    ],
    ids=repr,
)
def test_what_the_system_refuses(error: Exception, says: str | None) -> None:
    told = _told(error)
    assert told == says if says is None else says in str(told)


def test_names_are_one_line_whatever_is_in_them() -> None:
    assert printable("a\nb\x1b[0m \u200e\tä") == r"a\nb\x1b[0m \u200e\tä"
