"""A rewritten model in another form: for images of one size, in operators that accelerators have."""
