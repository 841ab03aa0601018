"""Reads files that users bring: images, masks, text lists, archives and names. Every check of their content is here."""
