"""Asking trained weights in which order their rows lie, and how many heads they have: what no name or shape shows."""
