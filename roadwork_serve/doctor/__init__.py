"""`roadwork doctor`: checks of this machine and this installation, and what would run here."""
