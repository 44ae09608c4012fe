"""Recipe, loop, checkpoint, guard, log."""
