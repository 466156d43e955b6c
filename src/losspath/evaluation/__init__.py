"""Losses of many parameter vectors on fixed data."""
