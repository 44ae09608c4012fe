"""Images with boxes and masks, for detection and segmentation."""
