"""Floor 2: who asks, how they prove it, and may they?

`grant` says what can be allowed, `principal` asks the one question, `identity` is a principal as proven by a
credential, `directory` keeps principals with their tokens, passwords and grants, `doorkeeper` is whom doors ask, `hold`
ends what is no longer allowed.
"""
