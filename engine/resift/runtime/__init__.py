"""The runtime: onnxruntime's sessions, one a graph, on the execution provider that suits the machine."""
