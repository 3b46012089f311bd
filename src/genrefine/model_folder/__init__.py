"""Saved models on disk: finding them, checking them before they are loaded, the addresses of their classes."""
