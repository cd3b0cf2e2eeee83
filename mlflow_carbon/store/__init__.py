"""Runs read back from a tracking store."""
