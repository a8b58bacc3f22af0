"""Floor 2: who asks, and may they?"""
