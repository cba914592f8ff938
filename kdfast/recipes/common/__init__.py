"""What the recipes share; `kdfast.recipes` lists it."""
