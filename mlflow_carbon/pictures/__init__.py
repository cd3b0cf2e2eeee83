"""Figures of measured runs, and the report that shows them."""
