"""Users' notebooks and files on disk."""
