"""Drivers: ways of waiting for a carrier's wire."""
