"""Results as one self-contained page: no script, nothing fetched, light and dark, fit to print."""
