"""Linux's own kernel, by bpf(2), perf_event_open, netlink and tracefs."""
