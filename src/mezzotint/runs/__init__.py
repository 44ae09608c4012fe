"""What is done with a finished run: evaluate, embed, fine-tune, compare, study."""
