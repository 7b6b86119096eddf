"""Telling people that a batch has ended: where, how, and until when it is tried."""
