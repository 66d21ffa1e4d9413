"""Stock Notebook 7 and JupyterLab, served from the bundles of their packages."""
