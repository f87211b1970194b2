"""The data layer of a Tent server."""
