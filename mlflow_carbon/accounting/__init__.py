"""What energy means: intensities, emissions, uncertainty, forecasts. Knows no device or store."""
