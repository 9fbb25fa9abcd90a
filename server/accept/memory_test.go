package accept_test

import (
	"fmt"
	"strconv"
	"testing"

	"registry-module/server/accept"
)

func TestUsableMemory(t *testing.T) {
	dir := t.TempDir()
	limit := func(name, content string) string { return file(t, dir+"/"+name, []byte(content)) }
	none, most, small, broken := dir+"/none", limit("most", "max\n"), limit("small", "1048576\n"), limit("broken", "1e6")
	machine := accept.UsableMemory()
	if machine < 64<<20 || machine == ^uint64(0) {
		t.Errorf("the machine has %d bytes", machine)
	}
	for name, tt := range map[string]struct {
		limits []string
		want   uint64
	}{
		"no files":      {[]string{none, none}, machine},
		"no limit":      {[]string{most}, machine},
		"a limit":       {[]string{small, none}, 1 << 20},
		"the second":    {[]string{none, small}, 1 << 20},
		"more than all": {[]string{limit("all", "9223372036854771712\n")}, machine},
		"no number":     {[]string{broken}, machine},
	} {
		if got := accept.UsableMemory(tt.limits...); got != tt.want {
			t.Errorf("%s: %d, want %d", name, got, tt.want)
		}
	}
}

// Half of a header takes no more than is counted on, however it is written.
func TestCostOfHalfARequest(t *testing.T) {
	const conns = 200
	s := serve(t, "tcp", accept.Options{MaxConns: 2 * conns}, text("ok"))
	half := []byte(request[:len(request)-2])
	for i := 0; len(half) < 20<<10-64; i++ {
		half = fmt.Appendf(half, "%s:\n", strconv.FormatInt(int64(36*36+i), 36))
	}
	s.want(t, nil, "ok")
	before := memory()
	for range conns {
		if _, err := s.dial(t).Write(half); err != nil {
			t.Fatal(err)
		}
	}
	grown := int64(0)
	for stable := 0; stable < 20; { // it is parsed in its own time
		s.want(t, nil, "ok")
		if now := memory() - before; now > grown+1<<20 {
			grown, stable = now, 0
		} else {
			stable++
		}
	}
	t.Logf("%d KiB for each", grown>>10/conns)
	// It is a seventh more with the race detector.
	if grown > conns*accept.Costliest*8/7 || grown < conns*accept.Costliest/10 {
		t.Errorf("%d bytes for each", grown/conns)
	}
}
