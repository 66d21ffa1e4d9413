"""Jupyter's own front ends, Notebook 7 and JupyterLab, served from the packages that ship them."""
