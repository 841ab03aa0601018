"""The machine: signals, processes, allocator and threads, progress bars."""
