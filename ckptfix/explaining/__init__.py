"""From a pasted error to its cause: the text is cleaned, read for statements, and held against rules that are data."""
