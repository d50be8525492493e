package bench

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// yieldToAll has every thread of this process run only where no other process wants to. Threads that are made later take after their maker.
func yieldToAll() error {
	done := map[string]bool{}
	for isNew := true; isNew; {
		isNew = false
		threads, err := os.ReadDir("/proc/self/task")
		for _, thread := range threads {
			if err == nil && !done[thread.Name()] {
				isNew, done[thread.Name()] = true, true
				err = lower(thread.Name())
			}
		}
		if err != nil {
			return fmt.Errorf("run at the lowest priority: %w", err)
		}
	}
	return nil
}

func lower(thread string) error {
	id, err := strconv.Atoi(thread)
	if err == nil {
		err = unix.SchedSetAttr(id, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0)
	}
	if errors.Is(err, unix.ESRCH) { // it has ended
		return nil
	}
	return err
}
