"""How many native forward passes a proof takes: ``python benchmarks/proof_passes.py MODEL ...``.

A run of a batch of two, or of an image of twice the pixels, counts as two. What runs of the heads alone cost, on
features of one window or of a larger map, is told in native passes of the same time.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxfc import rewrite
from onnxfc.proof import sessions

RUN = sessions.Runner.run


def main(paths: list[str]) -> None:
    print(f"{'model':40} {'passes':>6}  by what was run, and the heads' time in passes")
    for path in paths:
        native = rewrite(path, prove=False).claim
        counts: dict[str, float] = defaultdict(float)
        spent: dict[str, float] = defaultdict(float)
        shapes = {image.name: image.shape for image in native.inputs}

        def run(
            self: Any, feeds: Mapping[str, Any], *, shapes: Any = shapes, counts: Any = counts, spent: Any = spent
        ) -> Any:
            began = time.perf_counter()
            found = RUN(self, feeds)
            whole = [name for name in shapes if name in self.inputs]
            what = "whole" if whole else "heads"
            spent[what] += time.perf_counter() - began
            if whole:
                size = [int(np.prod(feeds[name].shape)) / int(np.prod(shapes[name])) for name in whole]
                counts["x".join(map(str, feeds[whole[0]].shape))] += max(size)
            return found

        sessions.Runner.run = run  # type: ignore[method-assign]
        rewrite(path)
        total = sum(counts.values())
        told = ", ".join(f"{shape} {count:.1f}" for shape, count in counts.items())
        heads = spent["heads"] * total / spent["whole"]
        print(f"{path.rsplit('/', 1)[-1]:40} {total:6.1f}  {told}; heads {heads:.1f}")


if __name__ == "__main__":
    main(sys.argv[1:])
