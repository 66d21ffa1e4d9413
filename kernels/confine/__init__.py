"""What keeps the kernels of different users apart on one host: a uid for each user, Landlock, seccomp, limits.

Owns what the host offers, who has which uid, and what a kernel's process does before any of its user's code. It
starts and ends no process, and knows neither sockets of the nursery nor records.
"""
