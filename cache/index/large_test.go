package index_test

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/cache"
)

// BenchmarkLarge measures an index of INDEX_BLOBS blobs, default 20,000, each with
// three entries: opening it, going through it, memory, and what is written for it and for
// INDEX_UPDATES updates, default 20,000.
// The figures in the comments of tuned are of a million.
func BenchmarkLarge(b *testing.B) {
	blobs, updates := number("INDEX_BLOBS", 20_000), number("INDEX_UPDATES", 20_000)
	dir := b.TempDir()
	x := open(b, dir)
	began, user, before, used := time.Now(), int64(0), written(b), cpu(b)
	const batch = 100
	var changes []cache.Change
	for i := range blobs {
		dgst := digest.FromString(strconv.Itoa(i))
		repo := fmt.Sprintf("library/repository-%d", i/50)
		for _, key := range []string{"b\x00" + dgst.String(), "l\x00" + repo + "\x00" + dgst.String(), "n\x00" + repo + "\x00" + dgst.String()} {
			changes = append(changes, cache.Change{Key: []byte(key), Value: []byte(`{"s":123456789}`)})
			user += int64(len(key)) + 15
		}
		if len(changes) >= 3*batch || i == blobs-1 {
			must(b, x.Apply(b.Context(), changes...))
			changes = changes[:0]
		}
	}
	b.Logf("filled in %v: %d MiB of entries; %s", time.Since(began), user>>20, rss(b))
	must(b, x.Close())
	b.Logf("closed after %v (%v of processors); written %d MiB; files: %s", time.Since(began), cpu(b)-used, (written(b)-before)>>20, sizes(b, dir))

	for b.Loop() {
		debug.FreeOSMemory() // as a new process begins
		began, used := time.Now(), cpu(b)
		x := open(b, dir)
		opened := fmt.Sprintf("%v (%v of processors)", time.Since(began), cpu(b)-used)
		if !x.Sound() {
			b.Error("not sound")
		}
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		b.Logf("opened in %v; heap %d MiB; %s", opened, m.HeapAlloc>>20, rss(b))
		began, used = time.Now(), cpu(b)
		n := 0
		for _, err := range x.Scan(b.Context(), nil, nil) {
			must(b, err)
			n++
		}
		b.Logf("%d entries in %v (%v of processors); %s", n, time.Since(began), cpu(b)-used, rss(b))
		began = time.Now()
		before := written(b)
		for i := range updates / 100 {
			changes := changes[:0]
			for j := range 100 {
				dgst := digest.FromString(strconv.Itoa((i*7919 + j*104729) % blobs))
				changes = append(changes, cache.Change{Key: []byte("b\x00" + dgst.String()), Value: []byte(`{"s":123456780}`)})
			}
			must(b, x.Apply(b.Context(), changes...))
		}
		took := time.Since(began)
		must(b, x.Close())
		b.Logf("%d updates in %v, %d KiB; written %d KiB; %s; files: %s", updates, took, updates*(73+15)>>10, (written(b)-before)>>10, rss(b), sizes(b, dir))
	}
}

// number returns what an environment variable says.
func number(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}

func sizes(t testing.TB, dir string) string {
	kinds := make(map[string]int)
	var bytes, allocated int64
	must(t, filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			kinds[filepath.Ext(name)]++
			bytes += info.Size()
			allocated += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return err
	}))
	return fmt.Sprintf("%v, %d MiB, allocated %d MiB", kinds, bytes>>20, allocated>>20)
}

// cpu returns how much processor time this process has used.
func cpu(t testing.TB) time.Duration {
	var u syscall.Rusage
	must(t, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// rss returns what the kernel says of our memory: its own, and mapped files.
func rss(t testing.TB) string { return proc(t, "/proc/self/status", "RssAnon", "RssFile") }

func proc(t testing.TB, name string, fields ...string) string {
	f, err := os.Open(name)
	must(t, err)
	defer func() { _ = f.Close() }()
	var found []string
	for s := bufio.NewScanner(f); s.Scan(); {
		for _, field := range fields {
			if strings.HasPrefix(s.Text(), field+":") {
				found = append(found, strings.Join(strings.Fields(s.Text()), " "))
			}
		}
	}
	return strings.Join(found, ", ")
}

// written returns how many bytes this process has made dirty.
func written(t testing.TB) int64 {
	n, err := strconv.ParseInt(strings.TrimPrefix(proc(t, "/proc/self/io", "write_bytes"), "write_bytes: "), 10, 64)
	must(t, err)
	return n
}
