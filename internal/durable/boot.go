package durable

import (
	"os"
	"strings"
)

// BootID returns what stands for the time since the kernel was started: what was
// written in that time, by whatever process, is in the kernel's page cache or on
// stable storage. It is the boot id of Linux, random(4), which containers share with
// their host; nothing where it cannot be read.
func BootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}
