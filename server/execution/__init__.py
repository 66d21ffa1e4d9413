"""Cells that run on the server's account, and not the page's."""
