"""Transforms, augmentation policies and views of images."""
