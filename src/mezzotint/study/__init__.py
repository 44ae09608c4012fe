"""Many runs: grids of recipes, and their figures side by side."""
