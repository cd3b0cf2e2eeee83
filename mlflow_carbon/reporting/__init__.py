"""Runs read back from the store and compared."""
