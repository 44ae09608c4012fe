"""Views of the input: transforms, policies and view generators."""
