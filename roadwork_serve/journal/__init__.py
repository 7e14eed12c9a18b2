"""The journal: tables, storage, spool, active learning, drift, exports."""
