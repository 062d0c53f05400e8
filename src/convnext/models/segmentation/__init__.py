"""Parts of segmentation networks, and how a network sees an image: in windows, in several views."""
