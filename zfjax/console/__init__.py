"""What commands and long work say: flags and exit codes, errors as one line, progress, tables. Imports no JAX."""
