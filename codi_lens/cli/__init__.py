"""The programs: flags, folders, exit codes, tables, processes; one file a program."""
