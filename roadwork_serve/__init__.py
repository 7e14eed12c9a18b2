"""roadwork-serve: an adaptive cascade that says whether a road photo or clip shows active road work."""

__version__ = "0.1.0"
