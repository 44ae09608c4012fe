"""Ways to train an encoder without labels, one paper a file."""
