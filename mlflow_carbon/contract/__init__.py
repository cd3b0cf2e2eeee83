"""What stands in a store: its names, and the records that are written under them."""
