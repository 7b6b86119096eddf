"""The loop that drives a queue: what happened is judged, what follows decided and recorded, nodes kept busy."""
