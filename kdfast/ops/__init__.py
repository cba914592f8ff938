"""One op, one file: its definition in plain PyTorch, its autograd function, its public function."""
