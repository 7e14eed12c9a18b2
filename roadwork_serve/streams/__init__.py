"""Watches cameras: streams and folders that fill become events of road work, which begin, go on and end."""
