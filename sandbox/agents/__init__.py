"""Starting the real agents as child processes, where their programs are on PATH."""
