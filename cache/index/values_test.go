package index_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"registry-module/cache"
	"registry-module/cache/index"
)

// Values of any length are there again, from tables that were made of memtables and of other
// tables. On 32-bit processors Badger mixes them up unless each table is built in one buffer.
func TestLargeValues(t *testing.T) {
	const rounds, written = 4, 8 << 20 // bytes a round, several tables
	for _, size := range []int{100, 2 << 10, 20 << 10, 33 << 10, 60 << 10, 64<<10 - 1} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			dir := t.TempDir()
			x := open(t, dir)
			n := min(written/size, 20_000)
			for round := range rounds {
				var changes []cache.Change
				for i := range n {
					changes = append(changes, cache.Change{Key: fmt.Appendf(nil, "key %d", i), Value: valueOf(size, i, round)})
					if len(changes) == 4 {
						must(t, x.Apply(t.Context(), changes...))
						changes = nil
					}
				}
				must(t, x.Apply(t.Context(), changes...))
			}
			wantValues(t, x, n, size, rounds-1)
			must(t, x.Close())
			x = open(t, dir)
			if !x.Sound() {
				t.Error("it is not sound")
			}
			wantValues(t, x, n, size, rounds-1)
			must(t, x.Close())
		})
	}
}

// valueOf is what key i has after a round.
func valueOf(size, i, round int) []byte {
	rnd := rand.NewChaCha8([32]byte{byte(i), byte(i >> 8), byte(i >> 16), byte(round)})
	value := make([]byte, size)
	_, _ = rnd.Read(value) // never fails
	return value
}

func wantValues(t *testing.T, x *index.Index, n, size, round int) {
	t.Helper()
	for i := range n {
		got, err := x.Get(t.Context(), fmt.Appendf(nil, "key %d", i))
		if err != nil || !bytes.Equal(got, valueOf(size, i, round)) {
			t.Fatalf("key %d: %d bytes of another value, %v", i, len(got), err)
		}
	}
}
