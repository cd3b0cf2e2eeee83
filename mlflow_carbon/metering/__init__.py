"""How much energy this machine takes. Carbontracker is known here and nowhere else."""
