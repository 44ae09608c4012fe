"""Randomized quantization: the augmentation, row by row and batch by batch."""
