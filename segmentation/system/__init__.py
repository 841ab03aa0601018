"""Operating system: signals, process identity, memory allocator and threads, progress bars."""
