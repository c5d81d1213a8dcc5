"""The programs behind `codi-lens NAME`: flags, folders, exit codes, tables; one file a program."""
