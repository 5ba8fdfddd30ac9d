"""What goes in and what comes out, by content: the code tree, the data trees, the outputs."""
