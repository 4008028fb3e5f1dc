"""What other programs make of a file, each loader replayed on names, shapes and dtypes: no torch, nothing is run."""
