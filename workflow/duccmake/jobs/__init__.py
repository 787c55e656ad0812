"""Doing it: a module for each rule of the workflow, which its script calls."""
