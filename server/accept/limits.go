package accept

import (
	"errors"
	"math"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// mostConns needs some 170 MB where all are idle and speak TLS. It is 8 times what the
	// proxies in front of it have at most.
	mostConns = 4096

	// otherFiles are those that are open beside connections and what is sent on them: of
	// the index, of downloads, and connections to remotes.
	otherFiles = 256

	// grace is how long an idle connection is kept in any case. A client has its request on
	// the way when it has connected, but the server has to get round to reading it.
	grace = 100 * time.Millisecond

	// mostLooked is how many idle connections are looked at for one without input. Few
	// have any, since the server reads it as soon as it gets round to that.
	mostLooked = 64

	// linesPerPeriod is how many lines there can be about something that anybody can cause.
	linesPerPeriod = 10
	period         = time.Minute
)

// maxConns returns how many connections there may be with so many open files, and so much
// memory in bytes, half of which is for them. Each can have a file that is sent on it.
func maxConns(files, memory uint64) int {
	files -= min(otherFiles, files/2)
	return int(max(1, min(files/2, memory/2/costliest, mostConns)))
}

// openFiles returns how many files the process may have open.
func openFiles() uint64 {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return math.MaxUint64 // nothing is known of a limit
	}
	return limit.Cur
}

// passing tells whether err is about one connection that was not accepted, see accept(2):
// what has become of it in the meantime, or what a firewall thinks of it.
func passing(err error) bool {
	for _, one := range []error{unix.ENETDOWN, unix.EPROTO, unix.ENOPROTOOPT, unix.EHOSTDOWN, unix.ENONET,
		unix.EHOSTUNREACH, unix.EOPNOTSUPP, unix.ENETUNREACH, unix.ECONNABORTED, unix.EPERM} {
		if errors.Is(err, one) {
			return true
		}
	}
	return false
}

// crowded tells whether err is for lack of what another connection holds.
func crowded(err error) bool {
	for _, lack := range []error{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM} {
		if errors.Is(err, lack) {
			return true
		}
	}
	return false
}

// sparse lets a few lines into the log, and more now and then.
type sparse struct {
	mu      sync.Mutex
	until   time.Time // end of the period
	lines   int       // in this period
	dropped int       // since the last line
}

// next tells whether there is to be a line now, and how many there would have been since
// the last one.
func (s *sparse) next() (dropped int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); !now.Before(s.until) {
		s.until, s.lines = now.Add(period), 0
	}
	if s.lines == linesPerPeriod {
		s.dropped++
		return 0, false
	}
	s.lines++
	dropped, s.dropped = s.dropped, 0
	return dropped, true
}
