"""Pictures and clips in and out: pixels, sheets, films, files."""
