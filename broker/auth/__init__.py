"""Floor 2: who asks, and may they? `grant` says what can be allowed, `principal` asks the one question, `hold` ends
what is no longer allowed."""
