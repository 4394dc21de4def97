"""The map of a class over an image, as a picture that any viewer opens: ``four.pgm``."""

import numpy as np
import onnxruntime as ort

import onnxfc

onnxfc.rewrite("fixtures/trained/digits.onnx").save("digits-any.onnx")
image = np.load("fixtures/trained/digits.npz")["canvas"].astype("float32") / 16
[scores] = ort.InferenceSession("digits-any.onnx").run(None, {"image": image})
share = np.exp(scores[0, 4]) / np.exp(scores[0]).sum(0)  # how sure each 16x16 window is that it shows a 4
with open("four.pgm", "wb") as file:
    file.write(b"P5 %d %d 255\n" % share.shape[::-1] + (255 * share).astype(np.uint8).tobytes())
