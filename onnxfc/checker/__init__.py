"""Checks of any pair of models: the claim that the second carries, or one derived for it."""
