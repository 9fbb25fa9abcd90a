package accept

import (
	"math"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// costliest is what a connection takes at most, in bytes, rounded up: half of a header of
// 20 KiB, which is what a server with a [http.Server.MaxHeaderBytes] of 16 KiB reads, in
// lines as short as can be. An idle one takes 40 KB with TLS.
const costliest = 512 << 10

// memoryLimits are files with how much memory the program may use, of control groups of
// version 2 and 1.
var memoryLimits = [...]string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}

// usableMemory returns how much memory there is for the program, in bytes: that of the
// machine, or as much as one of the files with limits says.
func usableMemory(limits ...string) uint64 {
	usable := uint64(math.MaxUint64) // nothing is known of a limit
	var machine unix.Sysinfo_t
	if unix.Sysinfo(&machine) == nil {
		usable = uint64(machine.Totalram) * uint64(max(machine.Unit, 1))
	}
	for _, path := range limits {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		if limit, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64); err == nil { // else it is "max"
			usable = min(usable, limit)
		}
	}
	return usable
}
