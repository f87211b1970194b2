"""The machinery of tent.data: one concept a module."""
