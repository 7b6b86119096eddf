"""Results: bringing what a job saved from its node into storage, whole or not at all."""
