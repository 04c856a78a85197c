"""Adapters over pretrained models."""
