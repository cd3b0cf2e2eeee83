"""CT images: phantoms, files, datasets, pictures."""
