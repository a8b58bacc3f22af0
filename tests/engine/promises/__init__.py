"""The promises of the engine seam, a module per theme; `tests.engine.conformance` gathers them."""
