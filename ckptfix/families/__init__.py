"""The kinds of image projection that are published, each with its sizes, its names and its reference module."""
