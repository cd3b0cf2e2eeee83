"""Where the electricity comes from, and what a kWh of it emits."""
