"""Conversions while things break at random: ``make chaos``.

A `world` has a registry, a wish list and a repository.  In each round something is converted while
some `faults` come and go, all chosen by the seed; when they are over, the `invariants` must hold.
"""
