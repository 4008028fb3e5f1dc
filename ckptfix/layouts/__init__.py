"""Layouts as data: templates and rules read from mappings, and which of them explain a list of names."""
