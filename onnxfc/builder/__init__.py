"""The new graph while it is built: operators in the model's own opset, and what a rule sees."""
