"""What weights of all systems on a backbone have in common: detectors, segmentation networks."""
