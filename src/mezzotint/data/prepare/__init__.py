"""Lists and files of public data sets, made ready for a recipe."""
