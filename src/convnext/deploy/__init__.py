"""Use away from PyTorch: graphs of detectors and segmentation networks, run with numpy."""

from convnext.deploy.detector import export_detector
from convnext.deploy.detector_host import OnnxDetector
from convnext.deploy.segmenter import export_segmenter
from convnext.deploy.segmenter_host import ExportedSegmenter

__all__ = ["ExportedSegmenter", "OnnxDetector", "export_detector", "export_segmenter"]
