"""Many files at once, without a server: what there is, the verdict on each, and where they are kept meanwhile."""
