"""The steps that a ruleset may allow before *go*, on made-up data, so that compilers find their caches warm."""
