"""Scripts that an `Executor` sends to nodes. They run there by themselves, with nothing of ours installed."""
