"""Tiny models of images and texts, with vocabularies that take no download."""
