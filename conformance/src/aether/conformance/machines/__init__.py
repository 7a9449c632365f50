"""Machines: long series of calls, made by Hypothesis, that a backend has to answer as the references answer them.

A case checks one rule that somebody wrote down; a machine finds what nobody thought of. It compares answers, not
values: the class of an error, the order that positions give and what resuming from them gives, never the opaque things
themselves. Where the references disagree, nothing is said about the backend.
"""
