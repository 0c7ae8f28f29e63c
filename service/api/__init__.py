"""HTTP: `transport` is the edge that every route shares; above it one thin module a dialect, and `ops`."""
