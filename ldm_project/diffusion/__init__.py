"""The networks, how they are trained and sampled, and their files. Knows no MLflow."""
