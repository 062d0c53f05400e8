"""Metrics and protocols: classification scores, calibration, Grad-CAM, cost."""
