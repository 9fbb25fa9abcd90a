package e2e

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"registry-module/e2e/lab"
)

// TestWriteAmplification counts what is written to the disk for ten images whose layers
// have 1 to 100 MiB (a tenth of that where it is not run -full), index and journals
// included, from the start of the module to its end.
func TestWriteAmplification(t *testing.T) {
	const most = 1.05
	random := rand.New(rand.NewPCG(4, 2))
	unit := sized[float64](mib/10, mib)
	var images []lab.Image
	var size int64
	for i := range 10 {
		var layers []int64
		for range 5 {
			layers = append(layers, int64(unit*math.Pow(100, random.Float64())))
		}
		img := noise(t, fmt.Sprintf("writes/%d", i), layers...)
		images = append(images, img)
		size += img.Size()
	}
	up := origin(t, lab.OriginOptions{}, images...)
	m := module(t, up.Env())
	device := deviceOf(t, m.Data)
	syscall.Sync()
	before := device.written(t)
	for _, img := range images {
		if err := pull(t.Context(), m, img); err != nil {
			t.Fatal(err)
		}
	}
	for _, img := range images {
		eventually(t, img.Repo+" is stored", func() bool { return allStored(m, img) })
	}
	running := must(m.Written())(t)
	if err := m.Stop(); err != nil {
		t.Fatal(err)
	}
	written := must(m.Written())(t)
	syscall.Sync()
	logSize := must(os.Stat(m.Log()))(t).Size()
	ratio := float64(written-logSize) / float64(size)
	t.Logf("%d bytes of blobs: %d written by the process, %d of them at its end; %.4f times; the device %s, which others use as well, has written %.4f times as much",
		size, written, written-running, ratio, device, float64(device.written(t)-before)/float64(size))
	if ratio > most {
		t.Errorf("%d bytes were written for %d, want at most %.2f times", written, size, most)
	}
	if written < size {
		t.Errorf("%d bytes were written for %d, which cannot be", written, size)
	}
	checkStore(t, m)
}

// TestIdleWritesNothing waits until the module, after some pulls, has written nothing for
// 20 s (-full: a minute): what is put off comes once, and nothing comes again and again. It
// looks after a configuration, secrets and a schedule meanwhile, and says what CPU it takes.
func TestIdleWritesNothing(t *testing.T) {
	t.Parallel()
	quiet := sized(20*time.Second, time.Minute)
	img := noise(t, "idle/app", mib, 1000)
	up := origin(t, lab.OriginOptions{}, img)
	dir := tempDir(t)
	config, token, seeds := filepath.Join(dir, "config.yml"), filepath.Join(dir, "token"), filepath.Join(dir, "seed.yml")
	write(t, config, "version: 0.1\nstorage: {filesystem: {}}\n")
	write(t, token, operatorToken+"\n")
	write(t, seeds, fmt.Sprintf("version: 1\nschedule: \"0 3 * * *\"\nimages: [\"%s/%s:%s\"]\n", up.Addr, img.Repo, img.Tag))
	m := module(t, up.Env(), lab.Env{"REGISTRY_CONFIGURATION_PATH": config, "REGISTRY_ADMIN_TOKENFILE": token, "REGISTRY_SEED_FILE": seeds})
	for range 3 {
		if err := pull(t.Context(), m, img); err != nil {
			t.Fatal(err)
		}
	}
	last, since, usage := must(m.Written())(t), time.Now(), must(m.Usage())(t)
	writes := 0
	end := time.Now().Add(4 * quiet)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for time.Since(since) < quiet {
		<-tick.C
		if now := must(m.Written())(t); now != last {
			t.Logf("%d bytes were written after %v of silence", now-last, time.Since(since).Round(time.Millisecond))
			last, since, usage = now, time.Now(), must(m.Usage())(t)
			writes++
		}
		if time.Now().After(end) {
			t.Fatalf("it has written %d times in %v, with nobody there", writes, 4*quiet)
		}
	}
	took := must(m.Usage())(t).CPU - usage.CPU
	t.Logf("nothing was written for %v, after %d writes that were put off; in that time it took %v of CPU, %.2f %% of a core",
		quiet, writes, took, 100*took.Seconds()/time.Since(since).Seconds())
}

// blockDevice is what a file system lies on, by its number.
type blockDevice string

// deviceOf returns the disk that a directory is on.
func deviceOf(t *testing.T, dir string) blockDevice {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		t.Fatal(err)
	}
	return blockDevice(fmt.Sprintf("%d:%d", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev))))
}

// written is how many bytes the disk has written since it is there; 0 where the file
// system has no disk of its own.
func (d blockDevice) written(t *testing.T) int64 {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/sys/dev/block", string(d), "stat"))
	if os.IsNotExist(err) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(text))
	const sectors = 6 // of 512 bytes; Documentation/block/stat.rst of Linux counts from 1
	return 512 * must(strconv.ParseInt(fields[sectors], 10, 64))(t)
}
