"""Write the last part of the texts in this folder anew: ``python tests/rewrites/refresh.py [NAME ...]``.

Each rewrite is proven. Read the diff: it says what a change of the rules does. A new text needs its title and the
model before.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main(names: list[str]) -> int:
    """1 where a rewrite failed: its text stays as it was."""
    sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]
    from rewrite_texts import paths, refresh

    failed = 0
    for path in paths():
        if names and path.stem not in names:
            continue
        try:
            if refresh(path):
                print(f"{path.stem}: refreshed")
        except Exception as error:  # whatever it is, the other texts are refreshed
            print(f"{path.stem}: {type(error).__name__}: {error}")
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
