"""Labels made by hand: a page on this machine that shows one answer at a time and writes what a person thinks of it into the table."""
