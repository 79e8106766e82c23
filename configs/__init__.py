"""Experiments: `common.py` lists every key, the other files say what differs."""
