"""Cut a Softmax off with onnx-graphsurgeon, rewrite the rest, go on editing the result."""

import onnx
import onnx_graphsurgeon as gs

import onnxfc

graph = gs.import_onnx(onnx.load("fixtures/torch/softmax.dynamo.onnx"))
softmax = next(node for node in graph.nodes if node.op == "Softmax")
scores = softmax.inputs[0]
scores.name, scores.dtype, scores.shape = "logits", graph.outputs[0].dtype, graph.outputs[0].shape
graph.outputs = [scores]
graph.cleanup()

result = onnxfc.rewrite(graph)
print(repr(result))
edited = result.to_graphsurgeon()
print([node.op for node in edited.nodes])
