package load

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// TestDrops shows that bytes are counted, and that all but those that come
// along with the header stay in the kernel.
func TestDrops(t *testing.T) {
	body := bytes.Repeat([]byte{0xff}, 8<<20)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "x.bin", time.Time{}, bytes.NewReader(body))
	}))
	defer server.Close()
	d := newDropper()
	defer d.CloseIdleConnections()
	for i := range d.scratch {
		resp, err := do(t.Context(), &d.Client, http.MethodGet, server.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		size := 0
		for err == nil {
			var n int
			n, err = resp.Body.Read(d.scratch[i])
			size += n
		}
		if err != io.EOF || size != len(body) {
			t.Errorf("scratch %d: got %d bytes and %v, want %d and EOF", i, size, err, len(body))
		}
		// The buffer of a connection of package net/http has 4 KiB.
		if touched := bytes.Count(d.scratch[i], []byte{0xff}); touched > 8<<10 {
			t.Errorf("scratch %d: %d bytes were copied, want next to none", i, touched)
		}
	}
}
