package index_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"registry-module/cache"
	"registry-module/cache/index"
)

// An index that nobody uses does nothing: none of Badger's goroutines is one that we do
// not know, and what we know of them is that they wait for something to come, or what they
// do, and how seldom.
func TestIdle(t *testing.T) {
	known := []string{
		"(*DB).doWrites",      // waits
		"(*DB).flushMemtable", // waits
		"(*vlogThreshold).listenForValueThresholdUpdate", // waits
		"(*valueLog).waitOnGC",                           // waits
		"(*publisher).listenForUpdates",                  // waits
		"(*WaterMark).process",                           // waits, twice
		"(*DB).monitorCache",                             // each minute, and finds no cache
		"(*DB).updateSize",                               // each minute lists the directory
		"(*AllocatorPool).freeupAllocators",              // every 2 s looks at an empty pool
	}
	inMemory := func() (*index.Index, error) { return index.OpenInMemory(nil) }
	onDisk := func() (*index.Index, error) { return index.Open(t.TempDir(), nil) }
	for name, open := range map[string]func() (*index.Index, error){"on disk": onDisk, "in memory": inMemory} {
		x, err := open()
		must(t, err)
		big(t, x, 0, 300) // some tables, which are merged
		must(t, index.Settle(x))
		if len(goroutines("dgraph-io/")) == 0 {
			t.Errorf("%s: no goroutine of Badger's was found", name)
		}
		if stacks := remain(known, "dgraph-io/", "(*merger)"); stacks != nil {
			t.Errorf("%s: an idle index has goroutines that are not known:\n%s", name, strings.Join(stacks, "\n\n"))
		}
		must(t, x.Close())
		if stacks := remain(nil, "(*merger)"); stacks != nil {
			t.Errorf("%s: after closing:\n%s", name, strings.Join(stacks, "\n\n"))
		}
	}
}

// remain returns the goroutines in which one of some names is, and none of those that are
// known, after those had time to end that are about to.
func remain(known []string, names ...string) (stacks []string) {
	const looks, pause = 500, 10 * time.Millisecond
	for range looks {
		stacks = slices.DeleteFunc(goroutines(names...), func(stack string) bool {
			return slices.ContainsFunc(known, func(f string) bool { return strings.Contains(stack, f+"(") })
		})
		if len(stacks) == 0 {
			return nil
		}
		time.Sleep(pause)
	}
	return stacks
}

// goroutines returns the stacks in which one of some names is, without this test's.
func goroutines(names ...string) (found []string) {
	buf := make([]byte, 4<<20)
	for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		has := func(name string) bool { return strings.Contains(stack, name) }
		if slices.ContainsFunc(names, has) && !has("testing.tRunner") {
			found = append(found, stack)
		}
	}
	return found
}

// bigValue is what big stores, so that few entries are some tables. It differs from entry
// to entry and from one time to the next.
func bigValue(i, round int) []byte {
	const size = 60 << 10
	return bytes.Repeat(fmt.Appendf(nil, "%08d-%06d.", i, round), size/16)
}

// big stores n entries, for the nth time.
func big(t *testing.T, x *index.Index, round, n int) {
	t.Helper()
	for i := range n {
		must(t, x.Apply(t.Context(), cache.Change{Key: bigKey(i), Value: bigValue(i, round)}))
	}
}

func bigKey(i int) []byte { return fmt.Appendf(nil, "big\x00%08d", i*7919%10_000) }

// wantBig has n entries of big, as they were stored last, but for those that removed says.
func wantBig(t *testing.T, x *index.Index, round, n int, removed func(i int) bool) {
	t.Helper()
	want := 0
	for i := range n {
		got, err := x.Get(t.Context(), bigKey(i))
		switch {
		case removed != nil && removed(i):
			if err == nil {
				t.Errorf("entry %d is there again", i)
			}
		case err != nil || !bytes.Equal(got, bigValue(i, round)):
			t.Errorf("entry %d begins with %.20q, %v", i, got, err)
			fallthrough
		default:
			want++
		}
	}
	found := 0
	for _, err := range x.Scan(t.Context(), []byte("big\x00"), nil) {
		must(t, err)
		found++
	}
	if found != want {
		t.Errorf("%d entries, want %d", found, want)
	}
}

// Tables are merged without Badger's own compactors, so that there are never many, nothing
// that was replaced or removed comes back, and what it took is given back.
func TestMerge(t *testing.T) {
	dir := t.TempDir()
	x := open(t, dir)
	const entries, rounds = 200, 3 // 12 MB each
	for round := range rounds {
		big(t, x, round, entries)
	}
	odd := func(i int) bool { return i%2 == 1 }
	for i := range entries {
		if odd(i) {
			must(t, x.Apply(t.Context(), cache.Change{Key: bigKey(i), Delete: true}))
		}
	}
	wantBig(t, x, rounds-1, entries, odd)
	must(t, x.Close())

	x = open(t, dir)
	must(t, index.Settle(x))
	wantBig(t, x, rounds-1, entries, odd)
	fresh, old := index.Tables(x)
	if fresh > 5 || old == 0 || old > 20 { // of some 2 MB each
		t.Errorf("%d new tables and %d that are merged", fresh, old)
	}
}

// gate holds who logs that Badger takes the next step of merging.
type gate struct {
	armed   atomic.Bool
	steps   atomic.Int64
	arrived chan struct{}
	leave   chan struct{}
}

func (g *gate) Levels() []logrus.Level { return logrus.AllLevels }

func (g *gate) Fire(e *logrus.Entry) error {
	if g.armed.Load() && strings.Contains(e.Message, "Attempting to compact") && g.steps.Add(1) == 1 {
		close(g.arrived)
		<-g.leave
	}
	return nil
}

// Close waits for what is being merged, and nothing is lost by that.
func TestCloseDuringMerge(t *testing.T) {
	g := &gate{arrived: make(chan struct{}), leave: make(chan struct{})}
	log := logrus.New()
	log.SetOutput(io.Discard)
	log.SetLevel(logrus.DebugLevel)
	log.AddHook(g)
	dir := t.TempDir()
	x, err := index.Open(dir, log)
	must(t, err)
	const entries = 400 // 24 MB, so that the new ones do not go into the last level at once
	big(t, x, 0, entries)
	must(t, index.Settle(x))
	g.armed.Store(true)
	for i := 0; ; i++ {
		select {
		case <-g.arrived:
		default:
			if i == 10 {
				t.Fatal("nothing is merged")
			}
			big(t, x, 1+i, entries)
			continue
		}
		closed := make(chan error, 1)
		go func() { closed <- x.Close() }()
		close(g.leave)
		must(t, <-closed)
		x = open(t, dir)
		if !x.Sound() {
			t.Error("the index is not sound")
		}
		wantBig(t, x, i, entries, nil)
		must(t, index.Settle(x))
		wantBig(t, x, i, entries, nil)
		return
	}
}

// Where there is no room to merge, changes are refused before there are too many tables,
// and taken again once there is.
func TestNoRoomToMerge(t *testing.T) {
	dir := t.TempDir()
	x := open(t, dir)
	index.SetMost(x, 5)
	const enough = 16 << 20 // for changes
	index.SetFree(x, func(string) (int64, error) { return enough, nil })
	var err error
	n := 0
	for ; err == nil && n < 2000; n++ { // 120 MB
		err = x.Apply(t.Context(), cache.Change{Key: bigKey(n), Value: bigValue(n, 0)})
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("after %d entries: error %v, want ENOSPC", n, err)
	}
	index.SetFree(x, func(string) (int64, error) { return 1 << 40, nil })
	if err := x.Apply(t.Context(), cache.Change{Key: bigKey(n - 1), Value: bigValue(n-1, 0)}); err != nil {
		t.Errorf("with room: %v", err)
	}
	must(t, index.Settle(x))
	wantBig(t, x, 0, n, nil)
}

// killedDir is the variable that makes TestKilled the process that is killed.
const killedDir = "INDEX_TEST_KILLED_DIR"

// A process may be killed at any time while it merges: all that was acknowledged is there.
func TestKilled(t *testing.T) {
	if dir := os.Getenv(killedDir); dir != "" {
		x := open(t, dir)
		for round := 0; ; round++ {
			for i := range 100 {
				must(t, x.Apply(t.Context(), cache.Change{Key: bigKey(i), Value: bigValue(i, round)}))
				fmt.Println("acknowledged", round*100+i)
			}
		}
	}
	for _, after := range []int{333, 421, 598} {
		dir := t.TempDir()
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilled$")
		cmd.Env = append(os.Environ(), killedDir+"="+dir)
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		last := -1
		for s := bufio.NewScanner(out); s.Scan(); {
			if n, err := strconv.Atoi(strings.TrimPrefix(s.Text(), "acknowledged ")); err == nil {
				last = n
			}
			if last == after {
				must(t, cmd.Process.Kill())
			}
		}
		_ = cmd.Wait() // it was killed
		if last < after {
			t.Fatalf("it ended after %d", last)
		}
		x := open(t, dir)
		must(t, index.Settle(x)) // it need not be sound: half of the next entry may be there
		for i := range 100 {
			// The round that entry i was last acknowledged in, or the next one.
			round := last/100 - 1
			if i <= last%100 {
				round++
			}
			got, err := x.Get(t.Context(), bigKey(i))
			if err != nil || !bytes.Equal(got, bigValue(i, round)) && !bytes.Equal(got, bigValue(i, round+1)) {
				t.Errorf("killed after %d: entry %d begins with %.20q, %v; want round %d", last, i, got, err, round)
			}
		}
		must(t, x.Close())
	}
}
