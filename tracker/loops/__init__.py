"""What is repeated while the process lives: each round is ``run_once()``, with a clock that is passed."""
