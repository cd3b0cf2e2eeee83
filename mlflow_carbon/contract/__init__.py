"""What stands in a store: names, and the records that are written by them."""
