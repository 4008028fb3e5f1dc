"""Tensors as views of stored bytes: where elements lie, how rows are reordered, and the numbers the bytes mean."""
