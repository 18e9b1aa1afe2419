"""Encoded images: whether they are whole, and their pixels."""
