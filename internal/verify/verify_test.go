package verify_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/opencontainers/go-digest"

	"registry-module/internal/verify"
)

func TestReader(t *testing.T) {
	long := strings.Repeat("registry", 40_000) // several buffers
	broken := errors.New("link down")
	tests := []struct {
		name   string
		src    io.Reader
		of     string // the content that the digest is of
		size   int64
		want   error
		atMost int // bytes that may come out when it fails
	}{
		{name: "matches", src: strings.NewReader("abc"), of: "abc", size: 3},
		{name: "matches with unknown size", src: strings.NewReader(long), of: long, size: -1},
		{name: "matches byte by byte", src: iotest.OneByteReader(strings.NewReader("abc")), of: "abc", size: 3},
		{name: "matches with data and EOF at once", src: iotest.DataErrReader(strings.NewReader(long)), of: long, size: int64(len(long))},
		{name: "empty", src: strings.NewReader(""), of: "", size: 0},
		{name: "empty with unknown size", src: strings.NewReader(""), of: "", size: -1},
		{name: "one byte", src: strings.NewReader("x"), of: "x", size: 1},
		{name: "wrong bytes", src: strings.NewReader("abd"), of: "abc", size: 3, want: verify.ErrMismatch, atMost: 2},
		{name: "wrong bytes, unknown size", src: strings.NewReader("abd"), of: "abc", size: -1, want: verify.ErrMismatch, atMost: 2},
		{name: "truncated", src: strings.NewReader("ab"), of: "abc", size: 3, want: verify.ErrMismatch, atMost: 2},
		{name: "truncated, unknown size", src: strings.NewReader("ab"), of: "abc", size: -1, want: verify.ErrMismatch, atMost: 2},
		{name: "too long", src: strings.NewReader("abcd"), of: "abc", size: 3, want: verify.ErrMismatch, atMost: 2},
		{name: "endless", src: io.MultiReader(strings.NewReader("abc"), zeros{}), of: "abc", size: 3, want: verify.ErrMismatch, atMost: 2},
		{name: "nothing instead of something", src: strings.NewReader(""), of: "abc", size: 3, want: verify.ErrMismatch},
		{name: "source fails", src: io.MultiReader(strings.NewReader("ab"), iotest.ErrReader(broken)), of: "abc", size: 3, want: broken, atMost: 2},
	}
	for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		for _, tt := range tests {
			if alg == digest.SHA512 && tt.want != nil {
				continue // readers are used up; the algorithms differ only in the sum
			}
			t.Run(string(alg)+"/"+tt.name, func(t *testing.T) {
				if s, ok := tt.src.(io.Seeker); ok {
					_, _ = s.Seek(0, io.SeekStart)
				} else if alg == digest.SHA512 {
					tt.src = strings.NewReader(tt.of)
				}
				r, err := verify.NewReader(tt.src, alg.FromString(tt.of), tt.size)
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(r)
				if !errors.Is(err, tt.want) {
					t.Fatalf("error %v, want %v", err, tt.want)
				}
				if tt.want == nil {
					if string(got) != tt.of {
						t.Fatalf("%d bytes, want the %d of the content", len(got), len(tt.of))
					}
					return
				}
				if len(got) > tt.atMost {
					t.Errorf("%d bytes came out before the failure, want at most %d", len(got), tt.atMost)
				}
				if _, again := r.Read(make([]byte, 1)); !errors.Is(again, tt.want) {
					t.Errorf("second read: error %v, want it to stay %v", again, tt.want)
				}
			})
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestBytes(t *testing.T) {
	if err := verify.Bytes(digest.FromString("abc"), []byte("abc")); err != nil {
		t.Error(err)
	}
	if err := verify.Bytes(digest.FromString("abc"), []byte("abd")); !errors.Is(err, verify.ErrMismatch) {
		t.Errorf("error %v, want ErrMismatch", err)
	}
	for _, bad := range []digest.Digest{"", "sha256", "sha256:abc", "md5:d41d8cd98f00b204e9800998ecf8427e"} {
		if err := verify.Bytes(bad, nil); err == nil {
			t.Errorf("digest %q is accepted", bad)
		}
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte("abc"), []byte("abc"), int64(3))
	f.Add([]byte("abc"), []byte("abcd"), int64(-1))
	f.Fuzz(func(t *testing.T, of, src []byte, size int64) {
		r, err := verify.NewReader(bytes.NewReader(src), digest.FromBytes(of), size)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		matches := bytes.Equal(of, src) && (size < 0 || size == int64(len(src)))
		if matches != (err == nil) {
			t.Fatalf("error %v for matching = %v", err, matches)
		}
		if err != nil && len(got) > 0 && len(got) >= len(src) {
			t.Fatal("the whole of wrong content came out")
		}
	})
}
