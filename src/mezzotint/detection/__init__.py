"""Detection and segmentation on top of an encoder."""
