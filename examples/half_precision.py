"""Rewrite in float32, convert to float16 with onnxruntime's own tool, and check the result against the original."""

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16

import onnxfc

result = onnxfc.rewrite("fixtures/torch/lenet.dynamo.onnx")
half = convert_float_to_float16(result.model, keep_io_types=True)
onnx.save(half, "lenet-any-half.onnx")
options = onnxfc.CheckOptions(rtol=2e-2)
checked = onnxfc.check_pair("fixtures/torch/lenet.dynamo.onnx", "lenet-any-half.onnx", options=options)
print(checked.passed, checked.parity.summary())
