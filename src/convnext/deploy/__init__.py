"""Use away from PyTorch: detectors as ONNX graphs, run with numpy."""

from convnext.deploy.detector import export_detector
from convnext.deploy.detector_host import OnnxDetector

__all__ = ["OnnxDetector", "export_detector"]
