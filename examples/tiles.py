"""A large image in tiles. A tile that has its halo gives the cells of the whole image."""

import numpy as np
import onnxruntime as ort

import onnxfc

result = onnxfc.rewrite("fixtures/trained/digits.onnx")
result.save("digits-any.onnx")
session = ort.InferenceSession("digits-any.onnx")
geometry = result.geometry
image = np.random.default_rng(0).random((1, 1, 200, 160), dtype=np.float32)
[whole] = session.run(None, {"image": image})

rows, (above, below) = 10, geometry.halo[0]  # cells in a tile, pixels that it needs before and behind its crops
tiled = np.full_like(whole, np.nan)
for first in range(0, whole.shape[2], rows):
    last = min(first + rows, whole.shape[2]) - 1
    top, bottom = geometry.box((first, 0)).start[0] - above, geometry.box((last, 0)).stop[0] + below
    top = max(0, top - top % geometry.period[0])  # on the grid of strides
    [cells] = session.run(None, {"image": image[:, :, top:bottom]})
    skip = first - top // geometry.stride[0]
    tiled[:, :, first : last + 1] = cells[:, :, skip : skip + last + 1 - first]
print(f"{whole.shape[2]}x{whole.shape[3]} cells, tiles differ by {np.abs(tiled - whole).max():.0e}")
