"""The packages below ``torch_tensorrt.dynamo``; see ``__path__`` there."""
