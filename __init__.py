"""Callboard: a Kafka-like commit log whose every part is an actor."""
