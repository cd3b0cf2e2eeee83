"""What energy means: emissions, uncertainty, forecasts. Knows no device and no store."""
