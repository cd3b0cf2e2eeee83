"""Emissions on models: LoggedModels, versions, registered models."""
