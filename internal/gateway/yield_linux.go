package gateway

import "syscall"

// yield lets other processes that want this CPU have it now: without that they would get it when the kernel's clock ticks next, some
// milliseconds later. It returns at once if there are none.
func yield() { _, _, _ = syscall.RawSyscall(syscall.SYS_SCHED_YIELD, 0, 0, 0) }
