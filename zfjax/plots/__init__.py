"""One function per figure: arrays in, a figure out, which notebooks show. Only `files` writes to disk."""
