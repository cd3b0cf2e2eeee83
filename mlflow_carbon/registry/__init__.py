"""Emissions on models, and models found by them."""
