"""The formats of files: tables of text, ARFF and NumPy, and their columns by name."""
