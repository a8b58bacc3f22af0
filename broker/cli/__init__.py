"""Floor 7: the `postroom` command, a file per noun; all verbs but serve, bench and demo speak HTTP."""
