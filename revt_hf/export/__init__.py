"""Models as ONNX files for other runtimes, checked against the network here."""
