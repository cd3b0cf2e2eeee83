"""The paper's study as a grid of cells: what each computes, needs and takes. Knows no MLflow."""
