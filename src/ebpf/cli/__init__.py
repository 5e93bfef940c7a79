"""The `ebpf` command: one file per noun, a command table, plain and JSON writers."""
