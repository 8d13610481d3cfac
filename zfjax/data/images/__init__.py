"""Image files from the inside: what they take to decode, damaged ends, more than 8 bits."""
