"""The command line `roadwork`, one file for each group of commands. Nothing imports it."""
