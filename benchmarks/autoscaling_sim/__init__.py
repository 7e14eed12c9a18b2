"""A day of traffic through the cascade, event by event, on cards that replicas have to find room on."""
