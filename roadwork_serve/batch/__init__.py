"""Batch scoring without a server: inputs, a cascade that scores them, and resumable runs."""
