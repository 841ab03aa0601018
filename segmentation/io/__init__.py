"""Files: images and masks as arrays, text lists, archives, names. Everything from outside is checked here."""
