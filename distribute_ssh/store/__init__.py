"""Memory: the queue in SQLite, the one-coordinator lock, and the spool of inputs by content."""
