"""What frozen features are worth: probes, bit-widths, baselines, and the files that hold the results."""
