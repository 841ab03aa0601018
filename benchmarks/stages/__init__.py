"""What is measured: a file each, with a title and its cases."""
