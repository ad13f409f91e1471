"""What `%load_ext nbsight` adds to a notebook."""
