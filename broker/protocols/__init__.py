"""Floor 4: the doors. Each is a sans-IO part (bytes to events) and a thin asyncio shell."""
