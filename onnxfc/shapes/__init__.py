"""Types, shapes and small values at several image sizes; image inputs, names of dims, multiply-adds."""
