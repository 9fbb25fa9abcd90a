package main

import (
	"os"
	"slices"
	"testing"
)

func TestParseWrk(t *testing.T) {
	const head = `Running 2s test @ http://127.0.0.1:1/v2/
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    65.53ms   15.32ms 100.60ms   80.00%
    Req/Sec   248.35     48.12   323.00     60.00%
  507 requests in 2.04s, 121.04KB read
`
	const tail = `Requests/sec:    248.21
Transfer/sec:     59.26KB
`
	for _, c := range []struct {
		name, out string
		want      wrkResult
	}{
		{"good", head + tail, wrkResult{Rate: 248.21}},
		{"errors", head + "  Non-2xx or 3xx responses: 251\n" + tail, wrkResult{248.21, 251}},
		{"broken connections", head + "  Socket errors: connect 1, read 2, write 3, timeout 4\n" + tail, wrkResult{248.21, 10}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := parseWrk(c.out); err != nil || got != c.want {
				t.Errorf("got %+v, %v; want %+v", got, err, c.want)
			}
		})
	}
	if got, err := parseWrk("unable to connect to 127.0.0.1:1 Connection refused\n"); err == nil {
		t.Errorf("got %+v from a run that failed, want an error", got)
	}
}

func TestTurns(t *testing.T) {
	a, b, c := &server{name: "a"}, &server{name: "b"}, &server{name: "c"}
	f := fleet{a, b, c}
	for repetition, want := range []fleet{{a, b, c}, {b, c, a}, {c, a, b}, {a, b, c}} {
		if got := f.turns(repetition); !slices.Equal(got, want) {
			t.Errorf("repetition %d begins with %s, want %s", repetition, got[0].name, want[0].name)
		}
	}
}

func TestStrippedSize(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(exe)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := strippedSize(exe); err != nil || n <= 0 || n > info.Size() {
		t.Errorf("got %d, %v; want some of %d bytes", n, err, info.Size())
	}
}
