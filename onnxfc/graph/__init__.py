"""Reading an ONNX graph, kinds of operators, and the inlining of functions and Ifs."""
