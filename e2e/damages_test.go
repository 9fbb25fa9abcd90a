package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"registry-module/e2e/lab"
)

// damages are what can become of a file.
func damages() map[string]func(name string) error {
	size := func(name string) int64 {
		info, err := os.Stat(name)
		if err != nil {
			return 0 // what follows fails
		}
		return info.Size()
	}
	at := func(name string, off int64, b []byte) error {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteAt(b, off)
		return errors.Join(err, f.Close())
	}
	return map[string]func(string) error{
		"half":  func(name string) error { return os.Truncate(name, size(name)/2) },
		"empty": func(name string) error { return os.Truncate(name, 0) },
		"zeros": func(name string) error {
			n := size(name)
			return errors.Join(os.Truncate(name, 0), os.Truncate(name, n)) // a hole
		},
		"a bit": func(name string) error {
			f, err := os.Open(name)
			if err != nil {
				return err
			}
			b := make([]byte, 1)
			_, err = f.ReadAt(b, size(name)/2)
			if err := errors.Join(err, f.Close()); err != nil {
				return err
			}
			b[0] ^= 0x10
			return at(name, size(name)/2, b)
		},
		"deleted":    os.Remove,
		"unreadable": func(name string) error { return os.Chmod(name, 0) },
	}
}

// kindOfFile says what a file is, of which there are many in a data directory.
func kindOfFile(shelf []lab.Image, name string) string {
	parts := strings.Split(name, "/")
	base := parts[len(parts)-1]
	has := func(part string) bool { return slices.Contains(parts, part) }
	switch {
	case base == "link" && has("tags"):
		return "tag"
	case base == "link" && has("revisions"):
		return "link of a manifest"
	case base == "link":
		return "link of a layer"
	case base == "data" && has("blobs"):
		dgst := digest.NewDigestFromEncoded(digest.SHA256, parts[len(parts)-2])
		for _, img := range shelf {
			for _, m := range img.Manifests {
				if m.Digest == dgst {
					return "manifest of type " + m.MediaType[strings.LastIndexByte(m.MediaType, '/')+1:]
				}
			}
			for i, b := range img.Blobs {
				if b.Digest == dgst && b.Size > mib {
					return "large layer"
				} else if b.Digest == dgst && i == len(img.Blobs)-1 {
					return "last blob"
				}
			}
		}
		return "other blob"
	case has("partial"):
		return "partial" + filepath.Ext(base)
	case has("index"):
		if ext := filepath.Ext(base); ext != "" {
			return "index *" + ext
		}
		return "index " + base
	}
	return base
}

// urlsOf are all that an image is made of, with what each gives.
func urlsOf(m *lab.Server, img lab.Image) map[string]lab.RawBlob {
	all := map[string]lab.RawBlob{}
	for _, raw := range img.Manifests {
		blob := lab.BytesBlob(raw.Bytes)
		all[manifestURL(m, img.Repo, raw.Digest.String())] = blob
		if raw.Digest == img.Root().Digest {
			all[manifestURL(m, img.Repo, img.Tag)] = blob
		}
	}
	for _, b := range img.Blobs {
		all[blobURL(m, img.Repo, b.Digest)] = b
	}
	return all
}

// untilRight asks until the answer is right. One that is complete and wrong is an error.
func untilRight(ctx context.Context, patience time.Duration, url string, want lab.RawBlob) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	var last string
	for {
		a, err := askWhole(ctx, url)
		if err == nil && a.Status == http.StatusOK && a.Err == nil {
			return a.rightOrClear(want)
		}
		if ctx.Err() == nil {
			last = fmt.Sprintf("status %d, %v, %v: %.300s", a.Status, a.Err, err, a.text)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w; the last answer: %s", url, ctx.Err(), last)
		case <-again.C:
		}
	}
}

// asked is an answer whose body was hashed, with its first bytes.
type asked struct {
	fetched
	Header http.Header
	text   []byte
}

func askWhole(ctx context.Context, url string) (a asked, err error) {
	req, err := request(ctx, http.MethodGet, url)
	if err != nil {
		return a, err
	}
	resp, err := client().Do(req)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	a.Status, a.Header = resp.StatusCode, resp.Header
	digester := digest.Canonical.Digester()
	var first bytes.Buffer
	const enough = 4 << 10
	n, err := io.Copy(io.MultiWriter(digester.Hash(), &first), io.LimitReader(resp.Body, enough))
	if err == nil {
		var m int64
		m, err = io.Copy(digester.Hash(), resp.Body)
		n += m
	}
	a.Size, a.Err, a.Digest, a.text = n, err, digester.Digest(), first.Bytes()
	return a, nil
}

// rightOrClear tells what is wrong with an answer: one that is complete is right, one that
// is an error says so as the specification wants, and others break off.
func (a asked) rightOrClear(want lab.RawBlob) error {
	if a.Err != nil {
		return nil // who gets this knows that it is not all
	}
	if a.Status == http.StatusOK {
		return a.whole(want)
	}
	var body struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal(a.text, &body); a.Status < 400 || err != nil || len(body.Errors) == 0 || body.Errors[0].Code == "" {
		return fmt.Errorf("status %d, and no error in the form of a registry: %v\n%.300s", a.Status, err, a.text)
	}
	return nil
}

// TestDamages shows that each damage changes a file.
func TestDamages(t *testing.T) {
	t.Parallel()
	for how, damage := range damages() {
		name := filepath.Join(tempDir(t), "file")
		sum := func() uint64 {
			h := fnv.New64a()
			content, err := os.ReadFile(name)
			info, err2 := os.Stat(name)
			fmt.Fprint(h, content, err != nil, err2 != nil)
			if err2 == nil {
				fmt.Fprint(h, info.Mode(), info.Size())
			}
			return h.Sum64()
		}
		if err := os.WriteFile(name, []byte("some content"), 0o644); err != nil {
			t.Fatal(err)
		}
		before := sum()
		if err := damage(name); err != nil {
			t.Errorf("%s: %v", how, err)
		}
		if sum() == before {
			t.Errorf("%s: nothing has changed", how)
		}
	}
}
