"""What is learnt: each task is a configuration and a module that holds network and loss."""
