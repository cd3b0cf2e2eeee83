"""What a person asks of runs and models: comparisons, forecasts, advice, cards."""
