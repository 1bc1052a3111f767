"""Models for other runtimes: ONNX, programs of torch.export, folders that transformers loads."""
