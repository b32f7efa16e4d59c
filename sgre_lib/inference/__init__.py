"""A trained model in use: labels of any photos, an ONNX file, its cost."""
