"""What a Python program uses in place of the command line; its names are those of `distribute_ssh` itself."""
